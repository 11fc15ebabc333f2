//! What is not to stop half way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use crate::telemetry;

/// Work that is done to its end: whoever stops waiting for it leaves it to a task of its own, which goes on. So it costs no
/// task, and wakes no other thread, where somebody waits. A panic in it is an error of whoever waits, as that of a task.
pub fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = sqlx::Result<T>> + Send + 'static,
) -> impl Future<Output = sqlx::Result<T>> + Send {
    ToTheEnd(Some(Box::pin(work)))
}

/// Nothing once it is done.
struct ToTheEnd<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<T, F> Future for ToTheEnd<F>
where
    T: Send,
    F: Future<Output = sqlx::Result<T>> + Send + 'static,
{
    type Output = sqlx::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<sqlx::Result<T>> {
        // Taken out: what panicked is not polled again.
        let mut work = self.0.take().expect("not polled once it is done");
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        if matches!(polled, Ok(Poll::Pending)) {
            self.0 = Some(work);
        }
        polled.unwrap_or(Poll::Ready(Err(sqlx::Error::WorkerCrashed)))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for ToTheEnd<F> {
    fn drop(&mut self) {
        let Some(work) = self.0.take() else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(telemetry::on_behalf_of(telemetry::caller(), work));
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
        assert_eq!(to_the_end(async { Ok(7) }).await.expect("done"), 7);
        let (go, gone) = oneshot::channel();
        let (said, hears) = oneshot::channel();
        let work = to_the_end(async move {
            gone.await.expect("told to go");
            said.send(8).expect("heard");
            Ok(())
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
            let _ = said.send(telemetry::caller().request_id);
            Ok(())
        };
        let caller = telemetry::Caller { request_id: Some("7".into()), ..Default::default() };
        let asking = telemetry::on_behalf_of(caller, to_the_end(work));
        assert!(timeout(Duration::from_millis(1), asking).await.is_err(), "it waits to be told");
        drop(go);
        assert_eq!(hears.await.expect("said").as_deref(), Some("7"));
    }

    #[tokio::test]
    async fn what_panicked_is_an_error_and_is_not_tried_again() {
        let polls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&polls);
        let work = std::future::poll_fn(move |_| -> Poll<sqlx::Result<()>> {
            counted.fetch_add(1, Ordering::SeqCst);
            panic!("at once")
        });
        assert!(matches!(to_the_end(work).await, Err(sqlx::Error::WorkerCrashed)));
        tokio::task::yield_now().await;
        assert_eq!(polls.load(Ordering::SeqCst), 1);
    }
}
