//! What is read: names and variables of the environment become ids, asked of Railway once at the start.

use super::line::{Nanos, read_time};
use super::{RailwayError, RailwaySettings};
use crate::railway::{ApiError, Named, PROJECT, Token, named, nodes};
use crate::yaml::nearest;
use serde_json::{Value, json};

const TOKEN: &str = "query ProjectToken { projectToken { projectId environmentId } }";
const PROJECTS: &str = "query Projects { projects { edges { node { id name } } } }";
const DEPLOYMENTS: &str = "query Deployments($input: DeploymentListInput!, $first: Int) { \
    deployments(input: $input, first: $first) { edges { node { id status createdAt } } } }";
/// Newest deployments of a service that are looked at: one serves, a few may be on their way, and some
/// may have come and gone while nobody read.
const DEPLOYMENTS_MAX: usize = 50;

/// Asks Railway one thing.
pub(super) type Ask<'a> = &'a mut dyn FnMut(&str, &Value) -> Result<Value, ApiError>;

/// What Railway tells every container about itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Around {
    pub project: Option<String>,
    pub environment: Option<String>,
    pub service: Option<String>,
}

impl Around {
    pub(super) fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        Self {
            project: set("RAILWAY_PROJECT_ID"),
            environment: set("RAILWAY_ENVIRONMENT_ID"),
            service: set("RAILWAY_SERVICE_ID"),
        }
    }
}

/// What is read, by ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    pub project: String,
    pub environment: Named,
    pub services: Vec<Named>,
}

impl Scope {
    /// Only logs of these services.
    pub(super) fn filter(&self) -> String {
        let parts: Vec<String> =
            self.services.iter().map(|service| format!("@service:{}", service.id)).collect();
        parts.join(" OR ")
    }
}

/// Why the scope is not known.
#[derive(Debug)]
pub(super) enum NoScope {
    /// Railway does not answer, or not yet.
    Api(ApiError),
    /// It never will.
    Never(RailwayError),
}

impl From<ApiError> for NoScope {
    fn from(error: ApiError) -> Self {
        NoScope::Api(error)
    }
}

impl From<RailwayError> for NoScope {
    fn from(error: RailwayError) -> Self {
        NoScope::Never(error)
    }
}

/// Finds out what is to be read.
pub(super) fn find(
    settings: &RailwaySettings,
    token: &Token,
    around: &Around,
    ask: Ask<'_>,
) -> Result<Scope, NoScope> {
    let (mut project, mut environment) = (around.project.clone(), around.environment.clone());
    if let Token::Project(_) = token {
        // Such a token opens one environment, whatever container it is used in.
        let data = ask(TOKEN, &json!({}))?;
        let own = |name: &str| Some(data.get("projectToken")?.get(name)?.as_str()?.to_owned());
        project = own("projectId").or(project);
        environment = own("environmentId").or(environment);
    }
    let wanted = match (&settings.project, project) {
        // A token of a project opens no other: a name is compared with it below.
        (Some(_), Some(own)) if matches!(token, Token::Project(_)) => own,
        (Some(wanted), _) if is_id(wanted) => wanted.clone(),
        (Some(wanted), _) => {
            let data = ask(PROJECTS, &json!({}))?;
            pick("project", wanted, &named(&data, "projects"))?.id
        }
        (None, Some(own)) => own,
        (None, None) => {
            let variable = "RAILWAY_PROJECT_ID";
            return Err(RailwayError::Missing { what: "project", variable }.into());
        }
    };
    let data = ask(PROJECT, &json!({ "id": wanted }))?;
    let data = data.get("project").filter(|data| !data.is_null()).ok_or_else(|| {
        NoScope::Never(RailwayError::Unknown {
            what: "project",
            name: wanted.clone(),
            known: String::new(),
        })
    })?;
    if let Some(wanted) = &settings.project {
        let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default().into();
        pick("project", wanted, &[Named { id: text("id"), name: text("name") }])?;
    }
    let known = named(data, "environments");
    let environment = match (settings.environment.clone().or(environment), known.as_slice()) {
        (Some(wanted), known) => pick("environment", &wanted, known)?,
        (None, [only]) => only.clone(),
        (None, _) => {
            let variable = "RAILWAY_ENVIRONMENT_ID";
            return Err(RailwayError::Missing { what: "environment", variable }.into());
        }
    };
    let mut services = Vec::new();
    for wanted in &settings.services {
        let service = pick("service", wanted, &named(data, "services"))?;
        if !services.contains(&service) {
            services.push(service);
        }
    }
    if settings.services.is_empty() {
        services = others(data, around);
    }
    if services.is_empty() {
        return Err(RailwayError::NoService { environment: environment.name }.into());
    }
    Ok(Scope { project: wanted, environment, services })
}

/// All services of a project but our own, whose lines name the patterns that we look for.
fn others(project: &Value, around: &Around) -> Vec<Named> {
    let mut services = named(project, "services");
    services.retain(|one| around.service.as_ref() != Some(&one.id));
    services
}

/// Asks for all services again: some may be new.
pub(super) fn services(
    scope: &Scope,
    around: &Around,
    ask: Ask<'_>,
) -> Result<Vec<Named>, ApiError> {
    let data = ask(PROJECT, &json!({ "id": scope.project }))?;
    Ok(others(data.get("project").unwrap_or(&Value::Null), around))
}

/// Whether a text is an id, not a name.
fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// What has this id or, in any case, this name.
fn pick(what: &'static str, wanted: &str, known: &[Named]) -> Result<Named, RailwayError> {
    let exact = known.iter().find(|one| one.id == wanted || one.name == wanted);
    let near = || known.iter().find(|one| one.name.eq_ignore_ascii_case(wanted));
    if let Some(found) = exact.or_else(near) {
        return Ok(found.clone());
    }
    let names: Vec<&str> = known.iter().map(|one| one.name.as_str()).collect();
    let mut text = String::new();
    if let Some(near) = nearest(wanted, &names) {
        text = format!("; did you mean `{near}`?");
    }
    if !names.is_empty() {
        text.push_str(&format!(" (there is: {})", names.join(", ")));
    }
    Err(RailwayError::Unknown { what, name: wanted.to_owned(), known: text })
}

/// A deployment of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deployment {
    pub id: String,
    /// It serves, or may serve soon.
    pub active: bool,
    /// When it was made.
    pub made: Option<Nanos>,
}

/// The newest deployments of a service, newest first.
pub(super) fn deployments(
    scope: &Scope,
    service: &Named,
    ask: Ask<'_>,
) -> Result<Vec<Deployment>, ApiError> {
    let input = json!({
        "projectId": scope.project, "environmentId": scope.environment.id, "serviceId": service.id,
    });
    let data = ask(DEPLOYMENTS, &json!({ "input": input, "first": DEPLOYMENTS_MAX }))?;
    let mut all: Vec<Deployment> = nodes(&data, "deployments")
        .filter_map(|node| {
            let text = |name: &str| node.get(name).and_then(Value::as_str);
            let status = text("status").unwrap_or_default();
            let active =
                matches!(status, "SUCCESS" | "DEPLOYING" | "SLEEPING" | "CRASHED" | "REMOVING");
            let made = text("createdAt").and_then(read_time);
            Some(Deployment { id: text("id")?.to_owned(), active, made })
        })
        .collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.made));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &str = "11111111-1111-4111-8111-111111111111";

    fn answers(query: &str, variables: &Value) -> Result<Value, ApiError> {
        let node = |id: &str, name: &str| json!({"node": {"id": id, "name": name}});
        Ok(match query.split([' ', '(']).nth(1).unwrap() {
            "ProjectToken" => json!({"projectToken": {"projectId": P, "environmentId": "e2"}}),
            "Projects" => json!({"projects": {"edges": [node(P, "shop"), node("p2", "blog")]}}),
            _ if variables["id"] != P => json!({"project": null}),
            _ => json!({"project": {
                "id": P, "name": "shop",
                "environments": {"edges": [node("e1", "production"), node("e2", "staging")]},
                "services": {"edges": [node("s1", "api"), node("s2", "web"), node("s3", "portcullis")]},
            }}),
        })
    }

    fn around(project: &str, environment: &str, service: &str) -> Around {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Around { project: some(project), environment: some(environment), service: some(service) }
    }

    fn ids(
        settings: &RailwaySettings,
        token: &Token,
        around: &Around,
    ) -> Result<(String, Vec<String>), String> {
        match find(settings, token, around, &mut answers) {
            Ok(scope) => Ok((
                scope.environment.id,
                scope.services.into_iter().map(|service| service.id).collect(),
            )),
            Err(NoScope::Never(error)) => Err(error.to_string()),
            Err(NoScope::Api(error)) => Err(error.to_string()),
        }
    }

    fn account() -> Token {
        Token::Account("t".into())
    }

    #[test]
    fn names_and_ids_are_found_and_our_own_service_is_left_out() {
        let mut settings = RailwaySettings::default();
        let container = around(P, "e1", "s3");
        let found = |settings: &RailwaySettings, token: &Token, around: &Around| {
            let (environment, services) = ids(settings, token, around).unwrap();
            format!("{environment} {}", services.join(" "))
        };
        assert_eq!(found(&settings, &account(), &container), "e1 s1 s2");
        assert_eq!(
            found(&settings, &Token::Project("t".into()), &around("", "", "")),
            "e2 s1 s2 s3"
        );
        assert_eq!(found(&settings, &Token::Project("t".into()), &container), "e2 s1 s2");
        settings.project = Some("shop".into());
        settings.environment = Some("Staging".into());
        settings.services = vec!["web".into(), "s1".into(), "s2".into()];
        assert_eq!(found(&settings, &account(), &around("", "", "")), "e2 s2 s1");
        settings.services = vec!["portcullis".into()];
        assert_eq!(found(&settings, &account(), &container), "e2 s3");
        let scope = find(&settings, &account(), &container, &mut answers).unwrap();
        assert_eq!(scope.filter(), "@service:s3");
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let settings = |project: &str, environment: &str, service: &str| RailwaySettings {
            project: Some(project.to_owned()).filter(|text| !text.is_empty()),
            environment: Some(environment.to_owned()).filter(|text| !text.is_empty()),
            services: Some(service.to_owned())
                .filter(|text| !text.is_empty())
                .into_iter()
                .collect(),
            ..RailwaySettings::default()
        };
        let none = around("", "", "");
        let token = Token::Project("t".into());
        let wrong =
            |settings: RailwaySettings, token: &Token| ids(&settings, token, &none).unwrap_err();
        let text = wrong(settings("shop", "production", "wep"), &account());
        assert!(
            text.contains("`wep`") && text.contains("`web`") && text.contains("api, web"),
            "{text}"
        );
        let text = wrong(settings("shop", "prod", ""), &account());
        assert!(
            text.contains("no environment `prod`") && text.contains("production, staging"),
            "{text}"
        );
        let text = wrong(settings("shp", "", ""), &account());
        assert!(text.contains("did you mean `shop`?") && text.contains("blog"), "{text}");
        let text = wrong(settings("", "", ""), &account());
        assert!(text.contains("RAILWAY_PROJECT_ID"), "{text}");
        let text = wrong(settings("shop", "", ""), &account());
        assert!(text.contains("RAILWAY_ENVIRONMENT_ID"), "{text}");
        let text = wrong(settings("blog", "", ""), &token);
        assert!(text.contains("no project `blog`") && text.contains("shop"), "{text}");
        let unknown = "22222222-1111-4111-8111-111111111111";
        let text = wrong(settings(unknown, "", ""), &account());
        assert!(text.contains(unknown), "{text}");
    }
}
