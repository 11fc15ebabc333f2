//! The changes that are asked for to a user's data, by themselves or by an admin, as values: nothing
//! here waits or asks another part.

use crate::fields::{Email, Name, Username, trimmed};
use crate::http::input::Input;
use crate::http::taken::Wanted;
use crate::store::users::User;

/// Only the fields that are given change; any other field is ignored, unless there is no other.
pub struct ProfileChanges {
    first_name: Option<Name>,
    last_name: Option<Name>,
    username: Option<Username>,
    /// Replaces an unverified address at once; waits in `pending_email` beside a verified one.
    email: Option<Email>,
}

/// The present password among them would be a change of the password to who reads no further.
const CHANGEABLE: [&str; 4] = ["first_name", "last_name", "username", "email"];

impl ProfileChanges {
    /// Reads the fields that are given; the form keeps what is wrong with them.
    pub fn read(form: &mut Input, user: &User) -> Self {
        form.refuse_if_all_unknown(&CHANGEABLE);
        Self {
            first_name: form.optional("first_name", Name::parse),
            last_name: form.optional("last_name", Name::parse),
            // A user who was given a reserved name keeps it, in any spelling.
            username: form.optional("username", |raw| {
                let is_own = trimmed(raw).eq_ignore_ascii_case(&user.username);
                if is_own { Username::parse_reserved_too(raw) } else { Username::parse(raw) }
            }),
            email: form.optional("email", Email::parse),
        }
    }

    /// Whether these would replace a verified address with another one.
    pub fn replace_verified_address(&self, user: &User) -> bool {
        user.is_email_verified() && self.new_address(user).is_some()
    }

    /// The address to replace the user's own, of which another spelling is not one.
    pub fn new_address(&self, user: &User) -> Option<&str> {
        let email = self.email.as_ref().map(Email::as_str);
        email.filter(|email| !email.eq_ignore_ascii_case(&user.email))
    }

    /// The name and the address that the user is to have.
    pub fn wanted<'a>(&'a self, user: &'a User) -> Wanted<'a> {
        Wanted {
            username: self.username.as_ref().map_or(&user.username, Username::as_str),
            email: self.new_address(user).unwrap_or(&user.email),
            but: Some(user.id),
        }
    }

    /// Writes the changes into `user` and names the fields that have another value now.
    pub fn apply(&self, user: &mut User) -> Vec<&'static str> {
        let mut updated = Vec::new();
        let mut set = |field: &mut String, value: Option<&str>, name| {
            if let Some(value) = value.filter(|value| value != field) {
                value.clone_into(field);
                updated.push(name);
            }
        };
        set(&mut user.first_name, self.first_name.as_ref().map(Name::as_str), "first_name");
        set(&mut user.last_name, self.last_name.as_ref().map(Name::as_str), "last_name");
        set(&mut user.username, self.username.as_ref().map(Username::as_str), "username");
        let Some(email) = self.email.as_ref().map(Email::as_str) else { return updated };
        let is_other = !email.eq_ignore_ascii_case(&user.email);
        let pending = if user.is_email_verified() && is_other {
            Some(email.to_owned())
        } else {
            set(&mut user.email, Some(email), "email");
            None
        };
        if user.pending_email != pending {
            user.pending_email = pending;
            updated.push("pending_email");
        }
        updated
    }
}
