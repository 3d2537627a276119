//! What `run` and `replay` are told about Kafka: flags over the configuration.

use crate::cli::{Replay, Run};
use crate::config::{Settings, SourceSpec, topic_or_pattern};
use crate::decode::time::{self, Micros, When};
use crate::kafka;
use crate::source::kafka::{From, KafkaSettings, Until};
use anyhow::{Result, anyhow, bail};

/// The part of `memory_limit` in which records may wait to be applied: one sixteenth.
const BUFFER_PART: usize = 16;
const BUFFER_MIN: usize = 1 << 20;
const BUFFER_MAX: usize = 64 << 20;

/// What `run` reads from Kafka, if it does.
///
/// # Errors
/// Flags that cannot be used.
pub fn live(settings: &Settings, run: &Run) -> Result<Option<KafkaSettings>> {
    let configured = match &settings.source {
        SourceSpec::Kafka(kafka) if run.follow.is_empty() => Some(kafka),
        _ => None,
    };
    if configured.is_none() && run.kafka.is_none() {
        if !run.topic.is_empty() || run.group.is_some() {
            bail!(
                "error: --topic and --group are about Kafka: say --kafka HOSTS, or source: {{ kafka: ... }} in the \
                 configuration"
            );
        }
        return Ok(None);
    }
    let mut kafka = configured.map_or_else(KafkaSettings::default, |kafka| (**kafka).clone());
    if let Some(hosts) = &run.kafka {
        kafka.connection.brokers = brokers(hosts)?;
    }
    if !run.topic.is_empty() {
        kafka.topics = run.topic.clone();
    }
    if let Some(group) = &run.group {
        kafka.group.clone_from(group);
    }
    if let Some(from) = &run.from {
        kafka.from = Some(beginning(from, settings)?);
        kafka.from_chosen = true;
    }
    finish(settings, kafka).map(Some)
}

/// What `replay --kafka` reads.
///
/// # Errors
/// Flags that cannot be used.
pub fn replay(settings: &Settings, hosts: &str, replay: &Replay) -> Result<KafkaSettings> {
    // Users, passwords and the group of the ACLs are those of the configuration.
    let mut kafka = match &settings.source {
        SourceSpec::Kafka(kafka) => (**kafka).clone(),
        _ => KafkaSettings::default(),
    };
    kafka.connection.brokers = brokers(hosts)?;
    kafka.topics = replay.topic.clone();
    kafka.instance_id = None;
    kafka.from = None;
    if let Some(from) = &replay.from {
        kafka.from = Some(beginning(from, settings)?);
    }
    kafka.until = Some(match &replay.to {
        Some(to) => Until::Time(instant(to, settings).ok_or_else(|| {
            anyhow!("error: --to: `{to}` is no time; write it like 2026-11-24T08:00:00Z")
        })?),
        None => Until::End,
    });
    if let (Some(From::Time(from)), Some(Until::Time(to))) = (kafka.from, kafka.until)
        && from >= to
    {
        bail!("error: --from must lie before --to");
    }
    finish(settings, kafka)
}

fn brokers(hosts: &str) -> Result<Vec<String>> {
    let list: Vec<String> =
        hosts.split(',').map(str::trim).filter(|h| !h.is_empty()).map(str::to_owned).collect();
    if list.is_empty() {
        bail!("error: --kafka names no broker; write it like kafka-1.example.org:9092");
    }
    for broker in &list {
        kafka::check_broker(broker)
            .map_err(|(why, help)| anyhow!("error: --kafka: {why}; {help}"))?;
    }
    Ok(list)
}

fn beginning(text: &str, settings: &Settings) -> Result<From> {
    From::read(text, &settings.timezone).ok_or_else(|| {
        anyhow!(
            "error: --from: `{text}` is not known; of Kafka topics: earliest, latest or a time like \
             2026-11-24T08:00:00Z"
        )
    })
}

fn instant(text: &str, settings: &Settings) -> Option<Micros> {
    match time::parse(text, &settings.timezone)? {
        When::At(at) => Some(at),
        When::Yearless(_) => None,
    }
}

fn finish(settings: &Settings, mut kafka: KafkaSettings) -> Result<KafkaSettings> {
    if !kafka::BUILT {
        bail!("error: {}", kafka::NOT_BUILT);
    }
    if kafka.topics.is_empty() {
        bail!(
            "error: no topic: say --topic NAME (repeatable), or source.kafka.topics in the configuration"
        );
    }
    for topic in &kafka.topics {
        topic_or_pattern(topic).map_err(|(why, help)| {
            let help = help.map_or_else(String::new, |help| format!("; {help}"));
            anyhow!("error: --topic: {why}{help}")
        })?;
    }
    kafka.max_line = settings.max_line;
    kafka.buffer = (settings.memory_limit / BUFFER_PART).clamp(BUFFER_MIN, BUFFER_MAX);
    Ok(kafka)
}
