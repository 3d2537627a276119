//! The one table of what can be asked for, and by whom. What is not in it is answered to nobody.

use super::auth::{self, Access, Need};
use super::{ServeConfig, Shared, api, blocklist, lapi};
use axum::Router;
use axum::middleware::from_fn_with_state;
use std::sync::Arc;

/// Something that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The method; GET stands for HEAD as well.
    pub method: &'static str,
    /// The path as the router writes it.
    pub path: &'static str,
    /// Who may.
    pub need: Need,
}

const fn route(method: &'static str, path: &'static str, need: Need) -> Route {
    Route { method, path, need }
}

/// All of them.
pub const ROUTES: &[Route] = &[
    route("GET", "/health", Need::Nothing),
    route("GET", "/ready", Need::Read),
    route("GET", "/metrics", Need::Read),
    route("GET", "/openapi.json", Need::Read),
    route("GET", "/api/status", Need::Read),
    route("GET", "/api/decisions", Need::Read),
    route("GET", "/api/why/{target}", Need::Read),
    route("POST", "/api/block", Need::Operator),
    route("POST", "/api/lock", Need::Operator),
    route("POST", "/api/require_2fa", Need::Operator),
    route("POST", "/api/lift", Need::Operator),
    route("POST", "/api/allow", Need::Operator),
    route("POST", "/api/disallow", Need::Operator),
    route("DELETE", "/api/disallow", Need::Operator),
    route("GET", "/v1/decisions", Need::Bouncer),
    route("GET", "/v1/decisions/stream", Need::Bouncer),
    route("POST", "/v1/usage-metrics", Need::Bouncer),
    route("GET", "/blocklist", Need::Bouncer),
    route("GET", "/blocklist.txt", Need::Bouncer),
];

/// The route of a method and a path as the router knows it.
pub fn find(method: &str, path: &str) -> Option<&'static Route> {
    let method = if method == "HEAD" { "GET" } else { method };
    ROUTES.iter().find(|route| route.method == method && route.path == path)
}

/// The methods of a path, for `Allow`.
pub fn methods(path: &str) -> String {
    let mut all = Vec::new();
    for route in ROUTES.iter().filter(|route| route.path == path) {
        all.push(route.method);
        if route.method == "GET" {
            all.push("HEAD");
        }
    }
    all.join(", ")
}

/// Everything that is answered, behind the one door.
pub fn app(shared: Arc<Shared>, access: Access, config: &ServeConfig) -> Router {
    let door = auth::Door { access, max_body: config.max_body, timeout: config.timeout };
    Router::new()
        .merge(api::routes())
        .merge(lapi::routes())
        .merge(blocklist::routes())
        .with_state(shared)
        .layer(from_fn_with_state(Arc::new(door), auth::admit))
}
