// What a dialog reads when it opens.
import { useEffect, useSignal } from "../vendor/preact.js";

/** What is read once when a dialog opens, and again when `again` changes. */
export function useAnswer(read, again) {
  const answer = useSignal(null);
  const problem = useSignal(null);
  useEffect(() => {
    let over = false;
    read().then(
      (data) => {
        if (!over) [answer.value, problem.value] = [data, null];
      },
      (error) => {
        if (!over) problem.value = error;
      },
    );
    return () => {
      over = true;
    };
  }, [again]);
  return { answer: answer.value, problem: problem.value };
}
