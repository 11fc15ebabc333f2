//! A user as clients see one.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::clock;
use crate::fields::Role;
use crate::store::standing::Standing;
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

/// A user as staff and admins see one.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ManagedUser {
    #[serde(flatten)]
    pub user: PublicUser,
    /// While it holds.
    #[schema(required = true)]
    pub banned: Option<Ban>,
    /// Only a new password lets in.
    pub reset_required: bool,
    /// Its owner has asked for the account to be deleted, which can still be taken back.
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A ban, for good where it has no end.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ban {
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    pub until: Option<DateTime<Utc>>,
    #[schema(required = true)]
    pub reason: Option<String>,
    /// The `public_id` of the admin, who may be gone by now.
    #[schema(required = true)]
    pub by: Option<Uuid>,
}

impl From<User> for ManagedUser {
    fn from(user: User) -> Self {
        let Standing { is_banned, banned_until, ban_reason, banned_by, .. } = user.standing.clone();
        let ban = Ban { until: banned_until, reason: ban_reason, by: banned_by };
        Self {
            banned: is_banned.then_some(ban),
            reset_required: user.standing.reset_required_at.is_some(),
            deleted_at: user.standing.deleted_at,
            user: user.into(),
        }
    }
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
