import test from 'ava';
import { asPhaulError, isErrorCode, PhaulError } from '../src/errors.ts';

test('the exit code of a failure follows from its code', (t) => {
  t.is(new PhaulError('ERR_USAGE', 'x').exitCode, 2);
  t.is(new PhaulError('ERR_OBSTACLES', 'x').exitCode, 1);
  t.is(new PhaulError('ERR_UNKNOWN_OUTCOME', 'x').exitCode, 3);
});

test('an unforeseen exception becomes a bug that keeps its cause', (t) => {
  const cause = new TypeError('x is not a function');
  const error = asPhaulError(cause);
  t.is(error.code, 'ERR_BUG');
  t.is(error.cause, cause);
  t.regex(error.message, /x is not a function/);
  t.is(asPhaulError(error), error);
  t.is(asPhaulError('text').code, 'ERR_BUG');
});

test('a code from the wire is told from any other word', (t) => {
  t.true(isErrorCode('ERR_TIMEOUT'));
  t.false(isErrorCode('toString'));
});
