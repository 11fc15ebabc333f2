//! The mailer of tests: letters go into a list.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Letter, SendError};

/// The letters that a memory mailer has sent. Cloning it gives another handle on the same list.
#[derive(Clone, Default)]
pub struct SentLetters(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sent: Vec<Letter>,
    failures: VecDeque<SendError>,
}

impl SentLetters {
    /// Takes every letter sent so far, oldest first, and leaves the list empty.
    pub fn take(&self) -> Vec<Letter> {
        std::mem::take(&mut self.state().sent)
    }

    /// Lets one coming send fail with `error`. Called several times, it lets as many fail, in that
    /// order.
    pub fn fail_next(&self, error: SendError) {
        self.state().failures.push_back(error);
    }

    pub(super) fn keep(&self, letter: &Letter) -> Result<(), SendError> {
        let mut state = self.state();
        if let Some(error) = state.failures.pop_front() {
            return Err(error);
        }
        state.sent.push(letter.clone());
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
