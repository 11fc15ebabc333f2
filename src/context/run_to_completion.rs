//! Work that runs to completion.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use crate::context;

/// Runs `work` to completion: if the caller stops waiting, a task of its own goes on with it. While
/// the caller waits, it costs no task and wakes no other thread, and a panic in it is the caller's.
pub fn run_to_completion<F>(work: F) -> impl Future<Output = F::Output> + Send
where
    F: Future<Output: Send> + Send + 'static,
{
    RunToCompletion(Some(Box::pin(work)))
}

/// `None` once it is done.
struct RunToCompletion<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> Future for RunToCompletion<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out: what panicked is not polled again.
        let mut work = self.0.take().expect("not polled once it is done");
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for RunToCompletion<F> {
    fn drop(&mut self) {
        let Some(work) = self.0.take() else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(context::scope(context::current(), work));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn it_ends_whether_somebody_waits_or_not() {
        assert_eq!(run_to_completion(async { 7 }).await, 7);
        let (go, gone) = oneshot::channel();
        let (said, hears) = oneshot::channel();
        let work = run_to_completion(async move {
            gone.await.expect("told to go");
            said.send(8).expect("heard");
        });
        assert!(timeout(Duration::from_millis(1), work).await.is_err(), "it waits to be told");
        go.send(()).expect("it waits still");
        assert_eq!(hears.await, Ok(8));
    }

    #[tokio::test]
    async fn what_is_left_of_it_is_done_on_behalf_of_the_same_caller() {
        let (go, gone) = oneshot::channel::<()>();
        let (said, hears) = oneshot::channel();
        let work = async move {
            let _ = gone.await;
            let _ = said.send(context::current().request_id);
        };
        let caller = context::RequestContext { request_id: Some("7".into()), ..Default::default() };
        let asking = context::scope(caller, run_to_completion(work));
        assert!(timeout(Duration::from_millis(1), asking).await.is_err(), "it waits to be told");
        drop(go);
        assert_eq!(hears.await.expect("said").as_deref(), Some("7"));
    }

    #[tokio::test]
    async fn what_panicked_is_not_tried_again() {
        let polls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&polls);
        let work = std::future::poll_fn(move |_| -> Poll<()> {
            counted.fetch_add(1, Ordering::SeqCst);
            panic!("at once")
        });
        let panicked = tokio::spawn(run_to_completion(work)).await.expect_err("a panic");
        assert!(panicked.is_panic());
        tokio::task::yield_now().await;
        assert_eq!(polls.load(Ordering::SeqCst), 1);
    }
}
