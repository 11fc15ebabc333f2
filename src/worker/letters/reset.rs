//! The letter with which a password is reset: a link and a code.

use super::Draft;
use crate::account::recovery::{CODE_LIFETIME, LINK_LIFETIME};
use crate::config::Config;
use crate::mail::{Letter, message};
use crate::security::mailed_code::CodePurpose;
use crate::security::token::HandleKind;
use crate::store::users::User;

/// To whoever has the address now, for whom the challenge is by then.
pub(super) fn compose(draft: &Draft<'_>, _user: &User) -> Option<Letter> {
    let challenge = draft.claimed.challenge_id?;
    let (state, at) = (draft.state, draft.claimed.created_at);
    let token = state.keys.issue_handle(HandleKind::Reset, challenge, at, at + LINK_LIFETIME);
    let link = link(&state.config, &token);
    let code = state.codes.make(CodePurpose::Reset, challenge);
    Some(message::reset(&message::Reset {
        message_id: &draft.message_id,
        to: draft.recipient(),
        service: draft.service(),
        link: &link,
        code: &code,
        minutes: LINK_LIFETIME.num_minutes(),
        code_minutes: CODE_LIFETIME.num_minutes(),
    }))
}

/// To the frontend's page, where one is set: with the token in the fragment, which reaches no
/// server, no log of one and no referrer.
fn link(config: &Config, token: &str) -> String {
    let Some(mut page) = config.password_reset_url.clone() else {
        return format!("{}/api/v1/password/reset?token={token}", config.public_url);
    };
    page.set_fragment(Some(&format!("token={token}")));
    page.into()
}
