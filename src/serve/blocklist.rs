//! Lists of blocked addresses for those who fetch a file.

use super::Shared;
use axum::Router;
use std::sync::Arc;

/// What it answers.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
}
