//! What operators and their programs ask for.

use super::Shared;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use std::sync::Arc;

/// What it answers.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/health", get(health))
}

async fn health() -> Json<serde_json::Value> {
    Json(json!({ "status": "up" }))
}
