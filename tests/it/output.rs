//! The bytes of the action line. Others parse them: a change here is a change of schema and an
//! entry in the CHANGELOG.

use crate::support::{failed_logins, run, stdout};

const BLOCK: &str = r##"{"schema":1,"id":"ID","decision":"ID","time":"2025-08-03T23:26:40.000000Z","op":"start","action":"block","target":{"kind":"ip","value":"203.0.113.7"},"duration_s":86400,"until":"2025-08-04T23:26:40.000000Z","rule":"ip-blocking","pack":"velro","pattern":"FAILED_LOGIN","count":21,"window_s":3600,"first_seen":"2025-08-03T22:30:00.000000Z","last_seen":"2025-08-03T23:26:40.000000Z","level":"warning","severity":"P2","respond_s":1800,"notify":["security_team"],"runbook":"#suspicious-activity-runbook","users":{"distinct":21,"sample":["user0@example.org","user1@example.org","user2@example.org"]},"reasons":{"invalid_password":21},"request_ids":{"distinct":21,"sample":["r-0","r-1","r-2"]},"mode":"enforce","reason":"21 FAILED_LOGIN from 203.0.113.7 within 1h"}"##;

#[test]
fn the_block_line_has_these_bytes() {
    let output = run(
        &["replay", "-", "--summary", "none"],
        failed_logins(21, 170, "203.0.113.7").as_bytes(),
    );
    let line =
        stdout(&output).lines().find(|line| line.contains("ip-blocking")).unwrap().to_owned();
    assert_eq!(line, BLOCK.replace("ID", "d9bb6d97bf65ed48"));
}
