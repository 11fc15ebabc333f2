//! Words of a list: as a query has them, and as the document lists them.

use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};

use crate::fields::FieldError;

/// The one of `all` that is called so.
pub(super) fn one_of<T: Copy>(
    all: &[T],
    name: fn(T) -> &'static str,
    raw: &str,
) -> Result<T, FieldError> {
    all.iter().copied().find(|one| name(*one) == raw).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
        FieldError::new("invalid_choice", format!("There are {}.", names.join(", ")))
    })
}

/// One of these words.
pub(super) fn schema_of(words: impl IntoIterator<Item = &'static str>) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}
