//! Whether the broker obeys the database: the last change in force, no alarm, somebody who keeps it in step.

use tokio_postgres::Client;

use crate::access::agent;
use crate::access::state::State;
use crate::cli::terminal::moment;

use super::finding::{Finding, Findings, Level};
use super::patient::Patient;

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("access");
    match &patient.database {
        Ok(client) => {
            if let Err(error) = ask(&mut findings, client).await {
                findings.skipped("in force", crate::db::error::describe(&error));
            }
        }
        Err(_) => {
            findings.skipped("in force", "the database does not answer");
        }
    }
    findings.into_list()
}

async fn ask(findings: &mut Findings, client: &Client) -> Result<(), tokio_postgres::Error> {
    let Some(state) = State::read(client).await? else {
        findings.skipped("in force", "the database's schema is older than users of the broker");
        return Ok(());
    };
    let users: i64 = client.query_one("SELECT count(*) FROM broker_users", &[]).await?.get(0);
    if let Some(alarm) = &state.alarm {
        findings.fault(
            "alarm",
            format!("the last change is not in force: {alarm}"),
            "whoever was shut out may still get in; iotflow broker restart writes the files anew and proves them",
        );
    }
    if users == 0 && state.applied_version < 0 {
        findings.skipped("in force", "no user of the broker is in the database: its users are kept elsewhere");
        return Ok(());
    }
    let found = match (state.pending, state.applied_at) {
        (0, Some(at)) => format!("users: {users}, in force since {}", moment(at)),
        (0, None) => format!("users: {users}"),
        (pending, _) => format!(
            "{pending} changes are not in force yet (version {}, {} applied)",
            state.version, state.applied_version
        ),
    };
    findings
        .judge(
            "in force",
            state.pending == 0,
            Level::Warning,
            found,
            "a change is in force within seconds; where it is not, iotflow broker status and its log say why",
        )
        .figure("pending_changes", state.pending);
    let at_work = agent::is_at_work(client).await?;
    findings.judge(
        "agent",
        at_work,
        Level::Warning,
        if at_work {
            "somebody keeps the broker in step"
        } else {
            "nobody keeps the broker in step"
        },
        "changes wait until somebody does: ./mqtt_manage.sh start, or iotflow broker agent where the broker is a container",
    );
    Ok(())
}
