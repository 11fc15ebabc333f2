//! A token as the key of a map of tokens that were genuine.

use std::hash::{Hash, Hasher};

use quick_cache::Equivalent;

use crate::security::are_equal;

/// Hashed by its signature alone, and equal as a whole. The signatures are compared first, in
/// constant time, so that no guess learns how much of a kept one it has right; whether two tokens
/// have the same hash does not matter. Cannot be printed.
pub struct TokenText<T>(pub T);

impl<T: AsRef<str>> TokenText<T> {
    fn signature(&self) -> &[u8] {
        let (_, signature) = self.0.as_ref().rsplit_once('.').unwrap_or_default();
        signature.as_bytes()
    }

    fn is(&self, other: &TokenText<impl AsRef<str>>) -> bool {
        are_equal(self.signature(), other.signature()) && self.0.as_ref() == other.0.as_ref()
    }
}

impl<T: AsRef<str>> Hash for TokenText<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.signature().hash(state);
    }
}

impl<T: AsRef<str>> PartialEq for TokenText<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
    }
}

impl<T: AsRef<str>> Eq for TokenText<T> {}

/// So that a token is looked up without a copy of it.
impl Equivalent<TokenText<Box<str>>> for TokenText<&str> {
    fn equivalent(&self, kept: &TokenText<Box<str>>) -> bool {
        self.is(kept)
    }
}
