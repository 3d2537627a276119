//! The one table of what can be asked for, and by whom. What is not in it is answered to nobody.

use super::auth::{self, Access, Need};
use super::{ServeConfig, Shared, api, blocklist, lapi};
use crate::action::escape;
use crate::yaml::nearest;
use axum::Router;
use axum::extract::Query;
use axum::http::Uri;
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
    /// The parameters that it takes behind a `?`, if others are mistakes.
    pub query: Option<&'static [&'static str]>,
}

const fn route(method: &'static str, path: &'static str, need: Need) -> Route {
    Route { method, path, need, query: Some(&[]) }
}

impl Route {
    const fn taking(self, query: &'static [&'static str]) -> Self {
        Self { query: Some(query), ..self }
    }

    /// For those who ask as others have taught them.
    const fn taking_anything(self) -> Self {
        Self { query: None, ..self }
    }

    /// What is wrong with the parameters that are asked with, if anything: one that is passed over
    /// would answer another question than the one that was meant.
    pub fn mistake(&self, uri: &Uri) -> Option<String> {
        let known = self.query?;
        let Ok(Query(given)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
            return Some("what stands behind the `?` cannot be read".to_owned());
        };
        for (at, (name, _)) in given.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let help = match (nearest(name, known), known) {
                    (Some(near), _) => format!("did you mean `{near}`?"),
                    (None, []) => "it takes none".to_owned(),
                    (None, known) => format!("it takes {}", known.join(", ")),
                };
                let (name, path) = (escape(name), self.path);
                return Some(format!("`{name}` is no parameter of {} {path}; {help}", self.method));
            }
            if given.iter().take(at).any(|(before, _)| before == name) {
                return Some(format!("`{name}` is given twice"));
            }
        }
        None
    }
}

const LIST: &[&str] = &["family", "format"];

/// All of them.
pub const ROUTES: &[Route] = &[
    route("GET", "/health", Need::Nothing).taking_anything(),
    route("GET", "/ready", Need::Read),
    route("GET", "/metrics", Need::Read),
    route("GET", "/openapi.json", Need::Read),
    route("GET", "/api/status", Need::Read),
    route("GET", "/api/decisions", Need::Read)
        .taking(&["history", "limit", "action", "mode", "target", "rule"]),
    route("GET", "/api/why/{target}", Need::Read),
    route("POST", "/api/block", Need::Operator),
    route("POST", "/api/lock", Need::Operator),
    route("POST", "/api/require_2fa", Need::Operator),
    route("POST", "/api/lift", Need::Operator),
    route("GET", "/api/allow", Need::Read),
    route("POST", "/api/allow", Need::Operator),
    route("POST", "/api/disallow", Need::Operator),
    route("DELETE", "/api/disallow", Need::Operator).taking(&["target", "because"]),
    route("GET", "/v1/decisions", Need::Bouncer).taking_anything(),
    route("GET", "/v1/decisions/stream", Need::Bouncer).taking_anything(),
    route("POST", "/v1/usage-metrics", Need::Bouncer).taking_anything(),
    route("GET", "/blocklist", Need::Bouncer).taking(LIST),
    route("GET", "/blocklist.txt", Need::Bouncer).taking(LIST),
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
