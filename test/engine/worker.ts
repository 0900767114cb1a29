/** Says in which thread it runs, or fails. */
import { threadId } from 'node:worker_threads';
import { trace } from '../../src/engine/tracing.ts';

trace<'succeed' | 'fail', number>((how, { tell }) => {
  tell(threadId);
  if (how === 'fail') {
    throw new Error('as it was told');
  }
  return threadId;
});
