//! Getting in and staying in: login, refresh, logout, the link in the mail.

mod confirm;
mod confirm_code;
mod confirm_code_refused;
mod confirm_disown;
mod confirm_onward;
pub mod confirm_page;
mod invitation_page;
mod login;
mod login_hash;
mod login_sessions;
mod login_together;
mod logout;
pub mod recovery;
mod recovery_code;
mod recovery_link;
mod recovery_page;
mod refresh;
mod refresh_automaton;
mod refresh_calls;
mod refresh_refused;
mod refresh_story;
mod refresh_tabs;
mod restore;
mod standing;
mod step_up;
