//! The three kinds of tokens: nothing opens but what was issued.

use std::sync::LazyLock;

use chrono::{DateTime, TimeDelta, Utc};
use doorward::config::TokenAlgorithm;
use doorward::fields::Role;
use doorward::security::token::{
    AccessClaims, LinkClaims, LinkPurpose, Opened, RefreshClaims, TokenError, TokenKeys,
};
use uuid::Uuid;

struct Issued {
    keys: TokenKeys,
    now: DateTime<Utc>,
    /// One of each kind: access, refresh, link.
    tokens: [String; 3],
}

static ISSUED: LazyLock<Issued> = LazyLock::new(|| {
    let secret = "a secret of the checks, which is long enough".to_owned().into();
    let keys = TokenKeys::new(&secret, None, TokenAlgorithm::Es256, "https://auth.example.com");
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a valid instant");
    let until = now + TimeDelta::hours(1);
    let (sub, sid) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let email = "ada@example.com".to_owned();
    let access = AccessClaims {
        sub,
        public_id: sub,
        sid,
        jti: Uuid::from_u128(3).to_string(),
        generation: Some(4),
        amr: vec!["pwd".to_owned()],
        auth_time: Some(1_750_000_000),
        username: "ada".to_owned(),
        email: email.clone(),
        email_verified: true,
        first_name: String::new(),
        last_name: String::new(),
        role: Role::User,
        is_staff: false,
        is_admin: false,
    };
    let refresh = RefreshClaims { sub, sid, counter: 4 };
    let link = LinkClaims { sub, email, purpose: LinkPurpose::ConfirmEmail };
    let tokens = [
        keys.issue_access(&access, now, until),
        keys.issue_refresh(&refresh, now, until),
        keys.issue_link(&link, now, until),
    ];
    Issued { keys, now, tokens }
});

/// As a token, as edits of the genuine ones, and as parts put in the place of theirs.
pub fn check(data: &[u8]) {
    let genuine = &ISSUED.tokens;
    for (kind, token) in genuine.iter().enumerate() {
        assert_eq!(open(token), opens_as(kind));
        if let Some(edited) = edit(token, data) {
            opens_only_if_issued(&edited);
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    opens_only_if_issued(text);
    for token in genuine {
        let parts: Vec<&str> = token.split('.').collect();
        for place in 0..parts.len() {
            let mut forged = parts.clone();
            forged[place] = text;
            opens_only_if_issued(&forged.join("."));
        }
        opens_only_if_issued(&format!("{token}{text}"));
        opens_only_if_issued(&format!("{text}{token}"));
    }
}

fn opens_only_if_issued(token: &str) {
    let issued = ISSUED.tokens.iter().position(|genuine| genuine == token);
    let expected = issued.map_or([false; 3], opens_as);
    assert_eq!(open(token), expected, "{token}");
}

fn opens_as(kind: usize) -> [bool; 3] {
    [0, 1, 2].map(|other| other == kind)
}

/// As which of the three kinds the token opens.
fn open(token: &str) -> [bool; 3] {
    let Issued { keys, now, .. } = &*ISSUED;
    let outcomes = [
        keys.open_access(token, *now).map(|_| ()),
        keys.open_refresh(token, *now).map(|_| ()),
        keys.open_link(token, *now).and_then(Opened::unexpired).map(|_| ()),
    ];
    outcomes.map(|outcome| {
        assert_ne!(outcome, Err(TokenError::Expired), "only a genuine token expires: {token}");
        outcome.is_ok()
    })
}

/// Each three bytes put a byte at a place of the token.
fn edit(token: &str, data: &[u8]) -> Option<String> {
    let mut bytes = token.as_bytes().to_vec();
    for edit in data.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % bytes.len();
        bytes[place] = edit[2];
    }
    String::from_utf8(bytes).ok()
}
