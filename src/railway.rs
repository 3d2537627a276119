//! What the source and the sink for Railway share: where its API is, with which token it is asked, and
//! one call of it.
//!
//! Shapes are those of Railway's public GraphQL schema, as its own command line and locomotive use it.

use crate::host::{is_this_machine, proxy_to};
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// Where Railway's API is.
pub const ENDPOINT: &str = "https://backboard.railway.com/graphql/v2";
/// The environments and services of a project, by its `id`.
pub const PROJECT: &str = "query Project($id: String!) { project(id: $id) { id name \
    environments { edges { node { id name } } } services { edges { node { id name } } } } }";
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 16 << 20;

/// A token with the header it goes in.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// Of one environment of a project: `RAILWAY_TOKEN`.
    Project(String),
    /// Of an account or a workspace: `RAILWAY_API_TOKEN`.
    Account(String),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Project(_) => "Token::Project(..)",
            Token::Account(_) => "Token::Account(..)",
        })
    }
}

impl Token {
    /// The token of the environment: `RAILWAY_API_TOKEN`, else `RAILWAY_TOKEN`.
    ///
    /// # Errors
    /// When neither is set.
    pub fn from_env() -> Result<Self, String> {
        let set = |name: &str| {
            let text = std::env::var(name).ok()?.trim().to_owned();
            (!text.is_empty()).then_some(text)
        };
        set("RAILWAY_API_TOKEN")
            .map(Token::Account)
            .or_else(|| set("RAILWAY_TOKEN").map(Token::Project))
            .ok_or_else(|| {
                "railway: no token: set RAILWAY_API_TOKEN (an account's or workspace's, from Railway's account \
                 settings) or RAILWAY_TOKEN (a project's, from the project's settings)"
                    .to_owned()
            })
    }

    /// The header that carries it, and its value.
    pub fn header(&self) -> (&'static str, String) {
        match self {
            Token::Project(token) => ("project-access-token", token.clone()),
            Token::Account(token) => ("authorization", format!("Bearer {token}")),
        }
    }

    /// `text` without it: a server may repeat what it was sent.
    fn masked(&self, text: &str) -> String {
        let (Token::Project(token) | Token::Account(token)) = self;
        text.replace(token, "(the token)")
    }

    /// The variable of the environment it comes from.
    pub fn variable(&self) -> &'static str {
        match self {
            Token::Project(_) => "RAILWAY_TOKEN",
            Token::Account(_) => "RAILWAY_API_TOKEN",
        }
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// It may work later: there is no answer, or the service has trouble.
    #[error("{0}")]
    Later(String),
    /// Too many calls.
    #[error("Railway asks for fewer calls (429)")]
    Limited {
        /// What `Retry-After` says.
        after: Option<Duration>,
    },
    /// The token is not taken.
    #[error("Railway does not take the token: {0}")]
    Unauthorized(String),
    /// The question was understood and not answered.
    #[error("Railway answers: {0}")]
    Refused(String),
}

/// Railway's API.
#[derive(Debug, Clone)]
pub struct Api {
    endpoint: String,
    token: Token,
    agent: ureq::Agent,
}

impl Api {
    /// The API at `endpoint`, asked with `token`.
    pub fn new(endpoint: &str, token: Token) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            // The token goes where the settings say, and nowhere else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy_to(endpoint))
            .build();
        Self { endpoint: endpoint.to_owned(), token, agent: config.into() }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// With which token it is asked.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Asks one query or mutation; gives its `data`.
    ///
    /// # Errors
    /// See [`ApiError`]; none of them holds the token.
    pub fn call(&self, query: &str, variables: &Value) -> Result<Value, ApiError> {
        self.ask(query, variables).map_err(|error| match error {
            ApiError::Later(why) => ApiError::Later(self.token.masked(&why)),
            ApiError::Unauthorized(why) => ApiError::Unauthorized(self.token.masked(&why)),
            ApiError::Refused(why) => ApiError::Refused(self.token.masked(&why)),
            ApiError::Limited { after } => ApiError::Limited { after },
        })
    }

    /// What the `errors` of an answer say, in one line and without the token; empty without any.
    pub fn errors(&self, answer: &Value) -> String {
        self.token.masked(&errors(answer))
    }

    fn ask(&self, query: &str, variables: &Value) -> Result<Value, ApiError> {
        let body = serde_json::json!({ "query": query, "variables": variables }).to_string();
        let (name, value) = self.token.header();
        let request = ureq::http::Request::builder()
            .method("POST")
            .uri(&self.endpoint)
            .header("content-type", "application/json")
            .header(name, value)
            .body(body)
            .map_err(|error| ApiError::Refused(error.to_string()))?;
        let mut answer =
            self.agent.run(request).map_err(|error| ApiError::Later(error.to_string()))?;
        let status = answer.status().as_u16();
        let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let after = after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let body = answer.body_mut().with_config().limit(ANSWER_MAX).lossy_utf8(true);
        let body = body.read_to_string().map_err(|error| ApiError::Later(error.to_string()))?;
        read_answer(status, after, &body)
    }
}

/// Whether an address may be given the token: over TLS, or on this machine.
///
/// # Errors
/// What is wrong with it.
pub fn check_endpoint(text: &str) -> Result<(), String> {
    let address: ureq::http::Uri =
        text.parse().map_err(|error| format!("`{text}` is no address: {error}"))?;
    let host = address.host().unwrap_or_default();
    match address.scheme_str() {
        Some("https") if !host.is_empty() => Ok(()),
        Some("http") if is_this_machine(host) => Ok(()),
        Some("http") => Err(format!(
            "`{text}` is plain HTTP to another machine, and would show the token to everybody on the way: write https"
        )),
        _ => Err(format!("`{text}` is no https address")),
    }
}

/// A thing with an id and a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its name, as its owner chose it.
    pub name: String,
}

/// The members of a connection of GraphQL.
pub fn nodes<'v>(data: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    let edges = data.get(name).and_then(|list| list.get("edges")).and_then(Value::as_array);
    edges.into_iter().flatten().filter_map(|edge| edge.get("node"))
}

/// Those of them that have an id and a name.
pub fn named(data: &Value, name: &str) -> Vec<Named> {
    nodes(data, name)
        .filter_map(|node| {
            let text = |name: &str| Some(node.get(name)?.as_str()?.to_owned());
            Some(Named { id: text("id")?, name: text("name")? })
        })
        .collect()
}

/// What an answer means. Railway answers mistakes in a query, and tokens that it does not take, with
/// 200 or 400 and `errors`.
fn read_answer(status: u16, after: Option<Duration>, body: &str) -> Result<Value, ApiError> {
    let mut json: Option<Value> = serde_json::from_str(body).ok();
    let told = json.as_ref().map(errors).unwrap_or_default();
    let why = || if told.is_empty() { format!("the answer was {status}") } else { told.clone() };
    match status {
        429 => Err(ApiError::Limited { after }),
        408 | 425 | 500.. => Err(ApiError::Later(why())),
        401 | 403 => Err(ApiError::Unauthorized(why())),
        _ if is_unauthorized(&told) => Err(ApiError::Unauthorized(told)),
        _ if !told.is_empty() || status >= 300 => Err(ApiError::Refused(why())),
        _ => match json.as_mut().and_then(|json| json.get_mut("data")) {
            Some(data) => Ok(data.take()),
            None => Err(ApiError::Later("the answer is no GraphQL answer".to_owned())),
        },
    }
}

/// What the `errors` of an answer say, in one line; empty without any.
fn errors(answer: &Value) -> String {
    let list = answer.get("errors").unwrap_or(answer).as_array().cloned().unwrap_or_default();
    let messages = list.iter().filter_map(|error| error.get("message")?.as_str());
    let text: Vec<String> = messages.map(one_line).collect();
    text.join("; ")
}

/// Whether a message of an error says that the token is not taken.
pub fn is_unauthorized(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["not authorized", "unauthorized", "invalid token", "forbidden"]
        .iter()
        .any(|known| message.contains(known))
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_railway_means_by_them() {
        let read = |status, body| read_answer(status, None, body);
        assert_eq!(read(200, r#"{"data":{"a":1}}"#), Ok(serde_json::json!({"a":1})));
        let refused = r#"{"errors":[{"message":"Problem processing request"}],"data":null}"#;
        let why = "Problem processing request".to_owned();
        assert_eq!(read(200, refused), Err(ApiError::Refused(why.clone())));
        assert_eq!(read(400, refused), Err(ApiError::Refused(why)));
        let stranger = r#"{"errors":[{"message":"Not Authorized"}],"data":null}"#;
        let unauthorized = ApiError::Unauthorized("Not Authorized".to_owned());
        assert_eq!(read(200, stranger), Err(unauthorized));
        assert!(matches!(read(502, "<html>"), Err(ApiError::Later(_))));
        assert!(matches!(read(200, "<html>"), Err(ApiError::Later(_))));
        assert!(matches!(read(302, ""), Err(ApiError::Refused(_))));
        assert_eq!(read(429, ""), Err(ApiError::Limited { after: None }));
    }

    #[test]
    fn a_token_is_never_printed() {
        let text = format!("{:?}", Api::new(ENDPOINT, Token::Account("sesame".to_owned())));
        assert!(!text.contains("sesame"), "{text}");
    }

    #[test]
    fn an_address_elsewhere_must_be_secret() {
        for good in [ENDPOINT, "http://localhost:1/", "http://[::1]:1/x", "http://127.0.0.1/"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        assert!(check_endpoint("http://127.0.0.1.example.org/").is_err());
    }

    #[test]
    fn what_a_server_repeats_of_the_token_is_masked() {
        let api = Api::new(ENDPOINT, Token::Project("sesame".to_owned()));
        let answer = serde_json::json!({"errors": [{"message": "bad token sesame"}]});
        assert_eq!(api.errors(&answer), "bad token (the token)");
    }
}
