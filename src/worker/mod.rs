//! Sends the letters that wait in the outbox, and tidies up.

mod clean_up;
mod delivery;
mod letters;

use tokio::sync::watch;

use crate::state::AppState;

pub use delivery::deliver_next;

/// Works until `stop` says so, finishing the letters in flight.
pub async fn run(state: AppState, stop: watch::Receiver<bool>) {
    let mut tasks = tokio::task::JoinSet::new();
    if state.mailer.is_off() {
        tracing::warn!("worker: no mail server is set: letters wait in the outbox");
    } else {
        tasks.spawn(delivery::send_letters(state.clone(), stop.clone()));
    }
    tasks.spawn(clean_up::clean_up(state, stop));
    tasks.join_all().await;
}
