"""A disk that keeps nothing but what was flushed: the strictest reading of fsync(2), without root and without a cut.

`Ledger` watches os.fsync. What a flush made durable is remembered: of a file its bytes, mode and time, of a directory
its names. `restore` builds what a loss of power would leave at the worst: a name is there if its directory was flushed
while it was, a file has the bytes of its last flush, or none. Real file systems keep more, in orders of their own; what
holds here holds on all of them.

The watched directory must be on tmpfs, where the number of an inode is never given away again.
"""

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Ledger:
    """What is durable below `root`; bytes are kept in `kept`, a directory outside of it."""

    root: Path
    kept: Path
    names: dict[int, dict[str, tuple[int, str]]] = field(default_factory=dict)
    """Of each flushed directory: its names, each an inode, and the target of a symbolic link."""

    files: dict[int, os.stat_result] = field(default_factory=dict)
    kinds: dict[int, int] = field(default_factory=dict)
    flushes: int = 0

    def begin(self) -> None:
        """Everything that lies below the root now is durable."""
        for directory, _, files in os.walk(self.root):
            self._flushed_directory(Path(directory))
            for name in files:
                path = Path(directory, name)
                if not path.is_symlink():
                    self._flushed_file(path)

    def flushed(self, descriptor: int) -> bool:
        """Take down what this fsync made durable. True if it was anything below the root."""
        path = Path(f"/proc/self/fd/{descriptor}")
        real = str(path.readlink()).removesuffix(" (deleted)")
        if real != str(self.root) and not real.startswith(f"{self.root}/"):
            return False
        self.flushes += 1
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self._flushed_directory(path)
        else:
            self._flushed_file(path)
        return True

    def _flushed_directory(self, path: Path) -> None:
        found = {}
        for entry in path.iterdir():
            name = entry.name
            with suppress(FileNotFoundError):  # another thread has removed it meanwhile
                seen = entry.lstat()
                self.kinds[seen.st_ino] = stat.S_IFMT(seen.st_mode)
                target = str(entry.readlink()) if stat.S_ISLNK(seen.st_mode) else ""
                found[name] = (seen.st_ino, target)
        self.names[path.stat().st_ino] = found

    def _flushed_file(self, path: Path) -> None:
        seen = path.stat()
        shutil.copyfile(path, self.kept / str(seen.st_ino))
        self.files[seen.st_ino] = seen

    def restore(self, into: Path) -> None:
        """Build in `into`, which is empty or not there, what a loss of power would leave now."""
        self._restore(self.root.stat().st_ino, into, {})

    def _restore(self, inode: int, into: Path, made: dict[int, Path]) -> None:
        into.mkdir(exist_ok=True)
        for name, (entry, target) in self.names.get(inode, {}).items():
            path = into / name
            if target:
                path.symlink_to(target)
            elif self.kinds[entry] == stat.S_IFDIR:
                self._restore(entry, path, made)
            elif entry in made:
                path.hardlink_to(made[entry])
            else:
                self._restore_file(entry, path)
                made[entry] = path

    def _restore_file(self, inode: int, path: Path) -> None:
        if (seen := self.files.get(inode)) is None:
            path.touch()
            return
        shutil.copyfile(self.kept / str(inode), path)
        path.chmod(stat.S_IMODE(seen.st_mode))
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
