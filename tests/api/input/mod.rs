//! Text from outside, as others have collected it and as chance makes it.

mod credentials;
mod email_vectors;
mod fuzzed;
mod naughty_strings;
mod user_agents;
