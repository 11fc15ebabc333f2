//! Calls that come together share one statement.
//!
//! A statement costs a round trip, the wake-up of a server process and, for a write, a commit,
//! however little it does. The first caller yields once, so that tasks that were woken with it can
//! come too, and waits up to 2 ms for the batch before; then all queued questions run as one
//! statement. If the values of one make it fail, each question is asked again alone.
//!
//! 590 us of PostgreSQL's time a login became 200 to 270 (3e790e2); the wait for the batch before
//! took 255 to 200 (a09077b). Look again if logins are no longer what fills the processors.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::connection::with_timeout;
use super::error::{depends_on_the_values, describe, is_unavailable};

/// The most questions in a batch.
const MAX_BATCH: usize = 64;
/// How long a batch waits, at the most, for the one that is under way; with the timer's own
/// granularity some 3 ms.
const MAX_WAIT: Duration = Duration::from_millis(2);

/// What became of a question; `None`: it has to be asked alone.
type Outcome<A> = Option<sqlx::Result<A>>;
type Waiting<Q, A> = Vec<(Q, oneshot::Sender<Outcome<A>>)>;

pub struct Batcher<Q, A>(Arc<Shared<Q, A>>);

struct Shared<Q, A> {
    waiting: Mutex<Waiting<Q, A>>,
    /// Held by the batch that is under way.
    turn: Semaphore,
}

impl<Q, A> Default for Batcher<Q, A> {
    fn default() -> Self {
        Self(Arc::new(Shared { waiting: Mutex::default(), turn: Semaphore::new(1) }))
    }
}

impl<Q: Clone + Send + 'static, A: Send + 'static> Batcher<Q, A> {
    /// Asks `question` together with all that come at the same time. `answer_all` gives an answer
    /// for each question, in their order, or `None` for those that have to be asked alone; of one
    /// alone it gives the answer. A batch runs to completion, even if the callers hang up; what is
    /// asked again alone ends with its caller. So it must be harmless when repeated. If the
    /// database is not there, all have failed.
    pub async fn ask<F>(
        &self,
        question: Q,
        answer_all: impl Fn(Vec<Q>) -> F + Clone + Send + 'static,
    ) -> sqlx::Result<A>
    where
        F: Future<Output = sqlx::Result<Vec<Option<A>>>> + Send,
    {
        let (tell, outcome) = oneshot::channel();
        let is_first = {
            let mut waiting = self.waiting();
            waiting.push((question.clone(), tell));
            waiting.len() % MAX_BATCH == 1
        };
        if is_first {
            let (batcher, answer_all) = (Self(Arc::clone(&self.0)), answer_all.clone());
            tokio::spawn(async move {
                yield_now().await;
                let turn = timeout(MAX_WAIT, batcher.0.turn.acquire()).await;
                batcher.answer_some(answer_all).await;
                drop(turn);
            });
        }
        // Without an outcome the batch has panicked: if it was for this question, the panic is this
        // caller's.
        if let Ok(Some(outcome)) = outcome.await {
            return outcome;
        }
        let answers = Box::pin(with_timeout(answer_all(vec![question]))).await?;
        answers.into_iter().next().flatten().ok_or(sqlx::Error::RowNotFound)
    }

    async fn answer_some<F>(&self, answer_all: impl Fn(Vec<Q>) -> F)
    where
        F: Future<Output = sqlx::Result<Vec<Option<A>>>> + Send,
    {
        let (questions, callers): (Vec<Q>, Vec<_>) = self.take().into_iter().unzip();
        let answered = with_timeout(answer_all(questions)).await;
        let mut answers = match answered {
            Ok(answers) => Ok(answers.into_iter()),
            Err(error) if callers.len() > 1 && depends_on_the_values(&error) => {
                Ok(Vec::new().into_iter())
            }
            Err(error) => Err(error),
        };
        for tell in callers {
            // A caller that hung up needs no answer.
            let _ = tell.send(match &mut answers {
                Ok(answers) => answers.next().flatten().map(Ok),
                Err(error) => Some(Err(same(error))),
            });
        }
    }

    /// The next batch. For each [`MAX_BATCH`] that wait, and for the rest, one task is on its way
    /// here.
    fn take(&self) -> Waiting<Q, A> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(MAX_BATCH);
        waiting.drain(..count).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<Q, A>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same error once more, as far as it matters to a caller: sqlx's cannot be cloned.
fn same(error: &sqlx::Error) -> sqlx::Error {
    match error {
        sqlx::Error::PoolTimedOut => sqlx::Error::PoolTimedOut,
        sqlx::Error::PoolClosed => sqlx::Error::PoolClosed,
        error if is_unavailable(error) => io::Error::other(describe(error)).into(),
        error => sqlx::Error::AnyDriverError(describe(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::watch;

    use super::*;

    /// Doubles numbers; counts count. Odd ones are answered alone.
    async fn double(batcher: &Batcher<u64, u64>, count: &Arc<AtomicUsize>, number: u64) -> u64 {
        let count = Arc::clone(count);
        let double = move |numbers: Vec<u64>| {
            let count = Arc::clone(&count);
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                assert!(numbers.len() <= MAX_BATCH);
                yield_now().await;
                let is_alone = numbers.len() == 1;
                let answer =
                    |number: u64| (number.is_multiple_of(2) || is_alone).then_some(number * 2);
                Ok(numbers.into_iter().map(answer).collect())
            }
        };
        batcher.ask(number, double).await.expect("no error")
    }

    #[tokio::test]
    async fn who_comes_together_is_answered_together_each_with_their_own() {
        let (batcher, count) = (Batcher::default(), Arc::default());
        let all = (0..200).map(|number| double(&batcher, &count, number * 2));
        assert_eq!(join_all(all).await, (0..200).map(|number| number * 4).collect::<Vec<_>>());
        assert_eq!(count.load(Ordering::SeqCst), 4, "64, 64, 64 and 8");
        assert_eq!(double(&batcher, &count, 7).await, 14);
        assert_eq!(count.load(Ordering::SeqCst), 5);
        let all = (0..3).map(|number| double(&batcher, &count, number));
        assert_eq!(join_all(all).await, [0, 2, 4]);
        assert_eq!(count.load(Ordering::SeqCst), 7, "three together, and one of them alone");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_left_without_an_answer() {
        let (batcher, count) = (Arc::new(Batcher::default()), Arc::default());
        let callers = (0..20_000).map(|number| {
            let (batcher, count) = (Arc::clone(&batcher), Arc::clone(&count));
            tokio::spawn(async move {
                let asking = double(&batcher, &count, number);
                // Every seventh hangs up at once, the one who would ask for the others among them.
                if number % 7 == 0 {
                    let _ = tokio::time::timeout(Duration::ZERO, asking).await;
                } else {
                    assert_eq!(asking.await, number * 2);
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.expect("no panic");
        }
        assert!(batcher.waiting().is_empty());
    }

    /// A batch that has told its callers gives its turn back.
    async fn assert_turn_is_free<Q, A>(batcher: &Batcher<Q, A>) {
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(batcher.0.turn.available_permits(), 1);
    }

    /// Whether two who came one after the other, while a batch was under way, were answered
    /// together. That batch ends then, or only after the two have their answers.
    async fn gather(first_ends: bool) -> bool {
        let batcher = Arc::new(Batcher::<u64, usize>::default());
        let (end, ended) = watch::channel(false);
        let ask = |number| {
            let (batcher, ended) = (Arc::clone(&batcher), ended.clone());
            tokio::spawn(async move {
                let answer = move |numbers: Vec<u64>| {
                    let mut ended = ended.clone();
                    async move {
                        if numbers.contains(&0) {
                            let _ = ended.wait_for(|ended| *ended).await;
                        }
                        Ok(vec![Some(numbers.len()); numbers.len()])
                    }
                };
                batcher.ask(number, answer).await.expect("no error")
            })
        };
        let first = ask(0);
        let mut others = Vec::new();
        for number in [1, 2] {
            for _ in 0..10 {
                yield_now().await;
            }
            others.push(ask(number));
        }
        for _ in 0..10 {
            yield_now().await;
        }
        if first_ends {
            end.send_replace(true);
        }
        let answered = async {
            let mut together = true;
            for other in others {
                together &= other.await.expect("no panic") == 2;
            }
            end.send_replace(true);
            assert_eq!(first.await.expect("no panic"), 1);
            together
        };
        let together = timeout(Duration::from_secs(30), answered).await.expect("nobody waits on");
        assert_turn_is_free(&batcher).await;
        together
    }

    #[tokio::test]
    async fn who_comes_while_a_batch_is_under_way_is_answered_together_soon_even_if_it_hangs() {
        for first_ends in [true, false] {
            let mut tries = 0;
            // On a busy machine the two may come further apart than the longest pause.
            while !gather(first_ends).await {
                tries += 1;
                assert!(tries < 100, "never together");
            }
        }
    }

    #[tokio::test]
    async fn if_it_fails_all_have_failed_alike() {
        let batcher = Batcher::<(), ()>::default();
        let asking = |error: fn() -> sqlx::Error| {
            let fail = move |_| async move { Err(error()) };
            join_all((0..3).map(|_| batcher.ask((), fail)))
        };
        for (error, is_outage) in [
            ((|| sqlx::Error::PoolTimedOut) as fn() -> sqlx::Error, true),
            (|| io::Error::from(io::ErrorKind::ConnectionReset).into(), true),
            (|| sqlx::Error::RowNotFound, false),
        ] {
            for failed in asking(error).await {
                let failed = failed.expect_err("failed");
                assert_eq!(is_unavailable(&failed), is_outage);
                assert!(describe(&failed).ends_with(&describe(&error())), "{failed}");
            }
        }
    }

    #[tokio::test]
    async fn a_panic_is_that_of_whoever_asked_for_it_and_no_one_elses() {
        let batcher = Arc::new(Batcher::<u64, u64>::default());
        let answer = |numbers: Vec<u64>| async move {
            assert!(!numbers.contains(&13), "an unlucky number");
            Ok(numbers.into_iter().map(Some).collect())
        };
        let ask = |number| {
            let batcher = Arc::clone(&batcher);
            tokio::spawn(async move { batcher.ask(number, answer).await.expect("no error") })
        };
        let asked: Vec<_> = [12, 13, 14].into_iter().map(ask).collect();
        let answers: Vec<Option<u64>> = join_all(asked).await.into_iter().map(Result::ok).collect();
        assert_eq!(answers, [Some(12), None, Some(14)]);
        assert_eq!(ask(15).await.expect("the next batch is none the worse"), 15);
        assert_turn_is_free(&batcher).await;
    }
}
