//! What `run` and `replay` are told about Kafka: flags over the configuration.

use crate::cli::{Replay, Run};
use crate::config::{Settings, SourceSpec, topic_or_pattern};
use crate::decode::time;
use crate::kafka;
use crate::source::kafka::{From, KafkaSettings, Until};
use anyhow::{Result, anyhow, bail};

/// The part of `memory_limit` in which records may wait to be applied: one sixteenth.
const BUFFER_PART: usize = 16;
const BUFFER_MIN: usize = 1 << 20;
const BUFFER_MAX: usize = 64 << 20;
/// How a time is written on the command line.
const EXAMPLE: &str = "2026-11-24T08:00:00Z or a day like 2026-11-24";

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
    if let (Some(_), Some(from)) = (configured, &settings.kafka_from) {
        // Only now is it known which `timezone` holds, whether it was said before or behind.
        kafka.from = From::read(from, &settings.timezone);
    }
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
        Some(to) => {
            Until::Time(time::parse_moment(to, &settings.timezone).ok_or_else(|| {
                anyhow!("error: --to: `{to}` is no time; write it like {EXAMPLE}")
            })?)
        }
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
             {EXAMPLE}"
        )
    })
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

#[cfg(all(test, feature = "kafka"))]
mod tests {
    use super::*;
    use crate::yaml::Document;

    #[test]
    fn a_day_in_the_configuration_begins_at_midnight_in_the_zone_that_holds() {
        let kafka = "source: { kafka: { brokers: [k:1], topics: [x], from: 2025-08-03 } }\n";
        let mut settings = Settings::default();
        let mut apply = |text: &str| {
            let document = Document { name: "c.yaml".into(), text: text.to_owned() };
            assert_eq!(settings.apply(&document), []);
            live(&settings, &Run::default()).unwrap().and_then(|kafka| kafka.from)
        };
        let from = |text: &str| {
            Some(From::Time(time::parse_moment(text, &"UTC".parse().unwrap()).unwrap()))
        };
        assert_eq!(apply(kafka), from("2025-08-03"));
        assert_eq!(apply("timezone: Europe/Berlin\n"), from("2025-08-02T22:00:00Z"));
    }
}
