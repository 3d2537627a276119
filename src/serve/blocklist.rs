//! Lists of blocked addresses for those who fetch a file: firewalls, nginx, HAProxy.

use super::Shared;
use axum::Router;
use std::sync::Arc;

/// The paths of the lists.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
}
