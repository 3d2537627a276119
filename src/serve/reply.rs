//! Answers that are no success: what is wrong, and why, as JSON.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::json;

/// An error: `{"error":"...","reason":"..."}`.
pub fn error(status: StatusCode, error: &str, reason: &str) -> Response<Body> {
    (status, Json(json!({ "error": error, "reason": reason }))).into_response()
}

/// An error that is on its way.
#[derive(Debug)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// What it is, in a word.
    pub error: &'static str,
    /// Why.
    pub reason: String,
}

impl Refusal {
    /// One.
    pub fn new(status: StatusCode, error: &'static str, reason: impl Into<String>) -> Self {
        Self { status, error, reason: reason.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        error(self.status, self.error, &self.reason)
    }
}

/// What the Local API of CrowdSec answers to whoever shows no key that it knows.
pub fn forbidden() -> Response<Body> {
    (StatusCode::FORBIDDEN, Json(json!({ "message": "access forbidden" }))).into_response()
}

/// What every answer carries unless it says otherwise itself.
pub fn finish(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    response
}
