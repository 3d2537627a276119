//! The Local API of CrowdSec, as bouncers need it.

use super::Shared;
use axum::Router;
use std::sync::Arc;

/// What it answers.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
}
