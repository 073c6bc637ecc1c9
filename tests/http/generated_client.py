"""What an operator's script does with the client that openapi-python-client makes of docs/openapi.json.

    openapi-python-client generate --path docs/openapi.json --meta none --output-path region_client
    PYTHONPATH=. python tests/http/generated_client.py https://region.example.org:5240 "$TOKEN" https://mirror.example.org/maas/

It runs in the generator's environment and needs nothing of Bootferry. Each call's answer is of the type that the
description promises, or the script ends with the answer it got. It leaves two images selected and no source behind.
"""

import sys
from importlib import import_module
from typing import Any

models = import_module("region_client.models")
client_module = import_module("region_client.client")


def call(client: Any, operation: str, promised: str, /, *args: Any, **given: Any) -> tuple[Any, str]:
    """The answer to one operation (`tag.operation_id`), of the model `promised`, and its ETag."""
    answer = import_module(f"region_client.api.{operation}").sync_detailed(*args, client=client, **given)
    if type(answer.parsed).__name__ != promised:
        raise SystemExit(f"{operation} was answered {int(answer.status_code)}: {answer.content!r}")
    sys.stdout.write(f"{operation} {int(answer.status_code)}\n")
    return answer.parsed, answer.headers.get("ETag", "")


def main(base: str, token: str, mirror: str) -> None:
    """Go once through sources, the selection, images, imports and racks."""
    nobody = client_module.Client(base_url=base)
    who, _ = call(nobody, "operators.log_in", "SessionShown", body=models.SessionFields(token=token))
    assert who.role == "admin", who
    client = client_module.AuthenticatedClient(base_url=base, token=token)
    region, _ = call(client, "health.get_region", "RegionShown")
    assert region.name, region

    call(client, "sources.list_sources", "PageSourceShown")
    fields = models.SourceFields(name="Made by a script", url=mirror, unsigned=True)
    added, _ = call(client, "sources.add_source", "SourceShown", body=fields)
    seen, etag = call(client, "sources.get_source", "SourceShown", added.id)
    assert seen.name == fields.name, seen
    change = models.SourceChange(priority=seen.priority - 1)
    changed, _ = call(
        client, "sources.change_source", "SourceChangedShown", added.id, body=change, dry_run=True, if_match=etag
    )
    assert changed.priority == change.priority, changed
    call(client, "sources.change_source", "SourceChangedShown", added.id, body=change, if_match=etag)
    refused, _ = call(client, "sources.change_source", "Problem", added.id, body=change, if_match=etag)
    assert (refused.status, refused.code) == (412, "precondition_failed"), refused
    call(client, "sources.remove_source", "LapseShown", added.id)
    missing, _ = call(client, "sources.get_source", "Problem", added.id)
    assert missing.code == "not_found", missing

    selected, etag = call(client, "selections.list_selections", "PageSelectionShown")
    wanted = [
        models.SelectionFields(os=one.os, release=one.release, arch=one.arch, source_id=one.source_id)
        for one in selected.items
    ]
    wanted.append(models.SelectionFields(os="ubuntu", release="noble", arch="amd64"))
    whole = models.WholeSelection(items=wanted)
    plan, _ = call(client, "selections.replace_selection", "PlanShown", body=whole, dry_run=True, if_match=etag)
    assert (plan.add, plan.import_id) == (["ubuntu:noble:amd64"], None), plan
    done, _ = call(client, "selections.replace_selection", "PlanShown", body=whole, if_match=etag)
    assert isinstance(done.import_id, int), done

    shown, _ = call(client, "images.list_images", "PageImageShown")
    image, _ = call(client, "images.get_image", "ImageShown", shown.items[0].id)
    assert image.status, image
    started, _ = call(client, "imports.start_import", "ImportShown")
    listed, _ = call(client, "imports.list_imports", "PageImportShown", limit=5)
    assert listed.items[0].id >= started.id, listed
    racks, _ = call(client, "racks.list_racks", "PageRackShown")
    assert racks.items == [], racks


if __name__ == "__main__":
    main(*sys.argv[1:])
