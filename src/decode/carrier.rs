//! Which keys belong to which carrier: shippers of container output, collectors and platforms that put a
//! line, as text, beside what they know of it.
//!
//! A record is a carrier's only if all of its keys are those of one carrier. The keys of one beside those
//! of another are some application's own record, whose text a client may have chosen.

/// One that carries lines.
struct Carrier {
    /// The keys it writes, normalised.
    keys: &'static [&'static str],
    /// Keys of which it always writes one; none if any will do.
    always: &'static [&'static str],
}

const CARRIERS: [Carrier; 8] = [
    // Fluent Bit and Fluentd, with what Docker's driver for them, the Kubernetes filter, ECS (FireLens) and the
    // options of `tail` add.
    Carrier {
        keys: &[
            "log",
            "message",
            "logprocessed",
            "date",
            "timestamp",
            "time",
            "timens",
            "stream",
            "logtag",
            "p",
            "tag",
            "kubernetes",
            "docker",
            "container",
            "containerid",
            "containername",
            "image",
            "label",
            "labels",
            "source",
            "host",
            "hostname",
            "file",
            "offset",
            "partialmessage",
            "partialid",
            "partialordinal",
            "partiallast",
            "ecscluster",
            "ecstaskarn",
            "ecstaskdefinition",
            "ec2instanceid",
        ],
        always: &[],
    },
    // Vector; see also `is_vectors_key`.
    Carrier {
        keys: &[
            "message",
            "timestamp",
            "time",
            "sourcetype",
            "host",
            "file",
            "offset",
            "stream",
            "kubernetes",
            "container",
            "containerid",
            "containername",
            "containercreatedat",
            "image",
            "label",
            "labels",
            "topic",
            "partition",
            "messagekey",
            "headers",
            "command",
            "metadata",
            "partial",
            "tag",
            // What Railway and locomotive write, taken in over HTTP.
            "level",
            "severity",
            "ts",
            "dt",
            "datetime",
        ],
        always: &[VECTORS_MARK],
    },
    // Filebeat, Elastic Agent and Logstash.
    Carrier {
        keys: &[
            "message",
            "timestamp",
            "version",
            "metadata",
            "agent",
            "ecs",
            "host",
            "input",
            "log",
            "container",
            "kubernetes",
            "docker",
            "stream",
            "offset",
            "source",
            "file",
            "labels",
            "cloud",
            "orchestrator",
            "tags",
            "fields",
            "datastream",
            "elasticagent",
        ],
        always: &["agent", "ecs", "input", LOGSTASHS_MARK],
    },
    // GELF, as Docker's driver fills it in.
    Carrier {
        keys: &[
            "version",
            "host",
            "shortmessage",
            "timestamp",
            "level",
            "containerid",
            "containername",
            "imageid",
            "imagename",
            "command",
            "created",
            "tag",
            "partialmessage",
            "partialid",
            "partialordinal",
            "partiallast",
        ],
        always: &["shortmessage"],
    },
    // Railway's log and what locomotive makes of it: the same time under many names.
    Carrier {
        keys: &[
            "message",
            "timestamp",
            "time",
            "ts",
            "dt",
            "datetime",
            "level",
            "severity",
            "metadata",
        ],
        always: &[],
    },
    // CloudWatch, as its command line prints events.
    Carrier {
        keys: &["message", "timestamp", "ingestiontime", "eventid", "logstreamname"],
        always: &["ingestiontime"],
    },
    // An agent that reads containers' output and adds the level that it found.
    Carrier {
        keys: &[
            "log",
            "message",
            "timestamp",
            "time",
            "stream",
            "level",
            "severity",
            "source",
            "kubernetes",
            "docker",
            "container",
            "containerid",
            "containername",
        ],
        always: &["stream", "kubernetes", "docker", "containerid", "containername"],
    },
    // What prints the logs of many pods.
    Carrier {
        keys: &[
            "message",
            "log",
            "timestamp",
            "time",
            "stream",
            "podname",
            "namespace",
            "node",
            "nodename",
            "container",
            "containerid",
            "containername",
            "image",
            "imageid",
            "imagename",
            "labels",
        ],
        always: &["podname", "namespace", "container", "containername"],
    },
];

/// The key by which a record is known to be Vector's.
const VECTORS_MARK: &str = "sourcetype";
/// That by which one is known to be Logstash's: its `@version` is the version of its own format.
const LOGSTASHS_MARK: &str = "@version";
/// What Vector reads from the head of syslog.
const SYSLOGS: [&str; 8] =
    ["appname", "facility", "hostname", "msgid", "procid", "severity", "sourceip", "version"];

/// Whether some carrier writes a key of this name, normalised.
pub fn is_key(name: &str) -> bool {
    CARRIERS.iter().any(|carrier| carrier.keys.contains(&name))
}

/// Whether Vector writes a key of this name, normalised, for that `source_type`.
fn is_vectors_key(source: Option<&str>, name: &str) -> bool {
    match source {
        Some("syslog") => SYSLOGS.contains(&name),
        Some("socket") => name == "port",
        Some("http_server") => name == "path",
        _ => false,
    }
}

/// The places of those of a record's keys, normalised, that the carrier to which it comes nearest does
/// not write: none if it is that carrier's. `source` is what stands under Vector's `source_type`; `logstash`, whether
/// there is a `@version`.
pub fn foreign(keys: &[String], source: Option<&str>, logstash: bool) -> Vec<usize> {
    let foreign = |carrier: &Carrier| -> Vec<usize> {
        let is_its = |key: &str| {
            carrier.keys.contains(&key)
                || carrier.always.contains(&VECTORS_MARK) && is_vectors_key(source, key)
        };
        (0..).zip(keys).filter(|(_, key)| !is_its(key)).map(|(place, _)| place).collect()
    };
    let is_marked = |carrier: &&Carrier| {
        carrier.always.is_empty()
            || logstash && carrier.always.contains(&LOGSTASHS_MARK)
            || keys.iter().any(|key| carrier.always.contains(&key.as_str()))
    };
    let all = CARRIERS.iter().filter(is_marked).map(foreign);
    all.min_by_key(Vec::len).unwrap_or_default()
}
