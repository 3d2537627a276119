//! Which services and deployments there are, asked again and again: those that are new are read too.

use super::Reader;
use crate::railway::{ApiError, Named};
use crate::source::railway::feed::{Feed, What};
use crate::source::railway::line::Nanos;
use crate::source::railway::scope::{self, Around, Deployment};
use crate::source::railway::socket::{Broken, Socket};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, spawn_blocking};

/// Deployments whose HTTP logs are read.
const DEPLOYMENTS_MAX: usize = 200;
/// Shortest time between two looks at the deployments.
const LOOK_MIN: Duration = Duration::from_secs(2);
/// Services that are looked at within [`look_every`](crate::source::railway::RailwaySettings::look_every): Railway counts questions.
const SERVICES_A_LOOK: usize = 4;
/// Every which look is also for new services.
const SERVICES_EVERY: u32 = 10;

/// What a look finds.
pub(super) struct Found {
    /// All services, if it was a look for them.
    services: Option<Vec<Named>>,
    /// Deployments of each service that could be asked for.
    deployments: Vec<Vec<Deployment>>,
    /// The names of those that could not, and why the last of them.
    failed: Option<(Vec<String>, ApiError)>,
}

pub(super) type Look = JoinHandle<Result<Found, ApiError>>;

impl Reader<'_> {
    /// A deployment has written a log: its HTTP logs are read from now on.
    pub(super) fn meet(&mut self, deployment: &str, at: Option<Nanos>) {
        let known = |feed: &Feed| matches!(&feed.what, What::Http(id) if id == deployment);
        if !self.settings.http || self.feeds.iter().any(known) {
            return;
        }
        // When the deployments are told, this one will be known already: all that may be missing of it is
        // asked for now.
        let missing = self.backlog.as_ref().map_or(Nanos::MAX, |backlog| backlog.from);
        let from = match at {
            Some(at) if self.looked => at.saturating_sub(self.overlap).min(missing),
            _ => self.http_from,
        };
        self.add(deployment, from);
        let soonest = self.looked_at.map_or_else(Instant::now, |at| at + LOOK_MIN);
        self.look_due = self.look_due.min(soonest);
    }

    fn add(&mut self, deployment: &str, from: Nanos) {
        if self.feeds.len() > DEPLOYMENTS_MAX {
            let text =
                format!("more than {DEPLOYMENTS_MAX} deployments: HTTP logs of some are not read");
            self.fail("deployments", &text);
            return;
        }
        let from = from.max(self.http_from);
        self.feeds.push(Feed::new(What::Http(deployment.to_owned()), from, None));
    }

    /// Looks for deployments when it is time, and at what a look has found.
    pub(super) async fn look(&mut self, socket: &mut Socket) -> Result<(), Broken> {
        if let Some(look) = self.look.take_if(|look| look.is_finished()) {
            match look.await.unwrap_or_else(|error| Err(ApiError::Later(error.to_string()))) {
                Ok(mut found) => {
                    match &found.failed {
                        None => self.over("look", "deployments are found again"),
                        Some((names, why)) => {
                            let names = names.join(", ");
                            let text = format!("deployments of {names} cannot be asked for: {why}");
                            self.fail("look", &text);
                        }
                    }
                    if let Some(services) = found.services.take() {
                        self.serve(services, socket).await?;
                    }
                    if self.settings.http {
                        self.found(&found);
                    }
                }
                Err(error) => {
                    self.fail("look", &format!("deployments cannot be asked for: {error}"));
                }
            }
        }
        if self.look.is_some() || self.look_due > Instant::now() {
            return Ok(());
        }
        let rounds = self.scope.services.len().div_ceil(SERVICES_A_LOOK).max(1);
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        self.looked_at = Some(Instant::now());
        self.look_due = Instant::now() + self.settings.look_every.saturating_mul(rounds);
        self.looks = self.looks.wrapping_add(1);
        let all = self.settings.services.is_empty() && self.looks.is_multiple_of(SERVICES_EVERY);
        let (scope, api, http) = (self.scope.clone(), self.api.clone(), self.settings.http);
        self.look = Some(spawn_blocking(move || {
            let mut ask = |query: &str, variables: &Value| api.call(query, variables);
            let services = all.then(|| scope::services(&scope, &Around::from_env(), &mut ask));
            let services = services.transpose()?;
            let (mut deployments, mut names, mut why) = (Vec::new(), Vec::new(), None);
            for service in services.as_ref().unwrap_or(&scope.services).iter().filter(|_| http) {
                match scope::deployments(&scope, service, &mut ask) {
                    Ok(found) => deployments.push(found),
                    // The next one would be told the same.
                    Err(error @ (ApiError::Limited { .. } | ApiError::Unauthorized(_))) => {
                        return Err(error);
                    }
                    Err(error) => {
                        names.push(service.name.clone());
                        why = Some(error);
                    }
                }
            }
            match why {
                Some(error) if deployments.is_empty() => Err(error),
                why => Ok(Found { services, deployments, failed: why.map(|why| (names, why)) }),
            }
        }));
        Ok(())
    }

    /// These are all services now. Those that are new are read too; where there is none, something is
    /// wrong, and the old ones are kept.
    async fn serve(&mut self, services: Vec<Named>, socket: &mut Socket) -> Result<(), Broken> {
        if services.is_empty() || services == self.scope.services {
            return Ok(());
        }
        let names: Vec<&str> = services.iter().map(|one| one.name.as_str()).collect();
        self.note(&format!("the services have changed: reads {}", names.join(", ")));
        self.scope.services = services;
        let Some(feed) = self.feeds.first_mut() else { return Ok(()) };
        let id = feed.id.clone();
        feed.dropped();
        feed.due = Instant::now();
        match id {
            Some(id) => socket.send(&json!({ "id": id, "type": "complete" })).await,
            None => Ok(()),
        }
    }

    /// Takes what a look has found.
    fn found(&mut self, found: &Found) {
        let services = &found.deployments;
        let first = !std::mem::replace(&mut self.looked, true);
        // Behind where nobody read.
        let missing = self.backlog.as_ref().map(|backlog| backlog.from);
        let missing = if first && self.resumed { Some(self.http_from) } else { missing };
        if let Some(backlog) = &mut self.backlog {
            backlog.looked(self.looked_at);
        }
        let listed: HashMap<&str, bool> =
            services.iter().flatten().map(|one| (one.id.as_str(), one.active)).collect();
        for feed in &mut self.feeds {
            if let What::Http(id) = &feed.what {
                // What is not listed may be one of a service that could not be asked for.
                let unknown = found.failed.is_some() && feed.active;
                let active = listed.get(id.as_str()).copied().unwrap_or(unknown);
                if feed.active && !active {
                    // It is given the time to finish, however long it was silent.
                    feed.heard = Instant::now();
                }
                feed.active = active;
            }
        }
        for deployments in services {
            // While nobody read, others may have served: all that were made since, and the one before.
            let mut before = missing.is_none();
            let since = missing.unwrap_or(self.http_from);
            for one in deployments {
                let made = one.made.unwrap_or(since);
                let older = made <= since;
                let served = !before
                    && (!older || !deployments.iter().any(|d| d.active && d.made <= one.made));
                before |= older;
                let known = |feed: &Feed| matches!(&feed.what, What::Http(id) if *id == one.id);
                if (one.active || served) && !self.feeds.iter().any(known) {
                    self.add(&one.id, if older { since } else { made });
                    if let Some(feed) = self.feeds.last_mut() {
                        feed.active = one.active;
                    }
                }
            }
        }
    }

    /// Leaves deployments that serve no more and are silent.
    pub(super) async fn retire(&mut self, socket: &mut Socket) -> Result<(), Broken> {
        let over = |feed: &Feed| {
            matches!(feed.what, What::Http(_))
                && !feed.active
                && feed.gap.is_none()
                && (feed.id.is_some() || feed.tries > 0)
                && feed.heard.elapsed() >= self.settings.quiet_max
        };
        let ids: Vec<String> = self
            .feeds
            .iter()
            .filter(|feed| over(feed))
            .filter_map(|feed| feed.id.clone())
            .collect();
        self.feeds.retain(|feed| !over(feed));
        for id in ids {
            socket.send(&json!({ "id": id, "type": "complete" })).await?;
        }
        Ok(())
    }
}
