//! What people may do with their own accounts, and for how long.

use chrono::TimeDelta;
use url::Url;

use super::vars::Vars;

#[derive(Clone, Debug)]
pub struct AccountSettings {
    /// How long a proof of who calls counts as fresh.
    pub step_up_within: TimeDelta,
    /// How long a deletion can be taken back; zero: not at all.
    pub deletion_after: TimeDelta,
    /// Whether a login from a device that was not seen before is told of by a letter.
    pub new_device_letters: bool,
    /// Where the link of "this was not me" leads, in place of our own page.
    pub not_me_url: Option<Url>,
    /// Where the link of an invitation leads, in place of our own page.
    pub invite_url: Option<Url>,
}

impl Vars<'_> {
    pub(super) fn account(&mut self) -> AccountSettings {
        AccountSettings {
            step_up_within: TimeDelta::minutes(self.number("STEP_UP_MINUTES", 15, 1..=1440)),
            deletion_after: TimeDelta::days(self.number("DELETION_DAYS", 30, 0..=365)),
            new_device_letters: self.choice(
                "NEW_DEVICE_LETTERS",
                true,
                &[("on", true), ("off", false)],
            ),
            not_me_url: self.page_for_links("NOT_ME_URL"),
            invite_url: self.page_for_links("INVITE_URL"),
        }
    }
}
