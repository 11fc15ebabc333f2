//! A user as clients see one.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::clock;
use crate::fields::Role;
use crate::store::users::User;

#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub struct PublicUser {
    pub public_id: Uuid,
    pub first_name: String,
    pub last_name: String,
    pub username: String,
    pub email: String,
    pub email_verified: bool,
    /// The new address of an account whose present one is verified, until its own link is
    /// confirmed.
    #[schema(required = true)]
    pub pending_email: Option<String>,
    pub role: Role,
    /// Staff and admins.
    pub is_staff: bool,
    pub is_admin: bool,
    #[serde(serialize_with = "clock::rfc3339")]
    pub created_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::rfc3339")]
    pub modified_at: DateTime<Utc>,
}

impl From<User> for PublicUser {
    fn from(user: User) -> Self {
        Self {
            public_id: user.id,
            email_verified: user.is_email_verified(),
            first_name: user.first_name,
            last_name: user.last_name,
            username: user.username,
            email: user.email,
            pending_email: user.pending_email,
            role: user.role,
            is_staff: user.role.is_staff(),
            is_admin: user.role.is_admin(),
            created_at: user.created_at,
            modified_at: user.modified_at,
        }
    }
}
