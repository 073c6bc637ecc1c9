// What a dialog reads when it opens.
import { useEffect, useSignal } from "../vendor/preact.js";

/** What is read once when a dialog opens, and again when `again` changes, or when a busy region may be asked again. */
export function useAnswer(read, again) {
  const answer = useSignal(null);
  const problem = useSignal(null);
  useEffect(() => {
    let over = false;
    let timer = 0;
    const look = () =>
      read().then(
        (data) => {
          if (!over) [answer.value, problem.value] = [data, null];
        },
        (error) => {
          if (over) return;
          problem.value = error;
          if (error.retryAfterS) timer = setTimeout(look, error.retryAfterS * 1000);
        },
      );
    look();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [again]);
  return { answer: answer.value, problem: problem.value };
}
