//! What devices say of their commands: a batch in, each delivery moved on at most once, late and repeated words told apart.

use std::collections::BTreeMap;

use tokio_postgres::{Error, GenericClient};

use crate::protocol::command::{Answer, Said};
use crate::protocol::id::DeviceId;

use super::state::State;

// In one order, as everybody locks deliveries: else two could wait for each other.
const FIND: &str = "
    SELECT said.number, d.seq, d.state
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS said (command_id, device, number)
    JOIN devices v USING (device)
    JOIN command_deliveries d ON d.command_id = said.command_id AND d.device_id = v.device_id
    ORDER BY d.seq FOR UPDATE OF d";
const APPLY: &str = "
    UPDATE command_deliveries d
    SET state = news.state, held = false,
        delivered_at = coalesce(d.delivered_at, now()),
        accepted_at = CASE WHEN news.accepted THEN coalesce(d.accepted_at, now()) ELSE d.accepted_at END,
        progress_at = CASE WHEN news.progressed THEN now() ELSE d.progress_at END,
        finished_at = CASE WHEN news.finished THEN now() ELSE d.finished_at END,
        message = coalesce(news.message, d.message),
        progress = coalesce(news.progress, d.progress),
        result = coalesce(news.result::json, d.result)
    FROM unnest($1::int8[], $2::text[], $3::bool[], $4::bool[], $5::bool[], $6::text[], $7::float4[], $8::text[])
        AS news (seq, state, accepted, progressed, finished, message, progress, result)
    WHERE d.seq = news.seq";

/// An answer, and the device whose topic it came on.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// Who said it.
    pub device: DeviceId,
    /// What.
    pub answer: Answer,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The delivery is in this state now.
    Applied(State),
    /// The delivery had come to its end before.
    Late,
    /// The delivery was as far, or further.
    Repeated,
    /// This device was never sent such a command.
    Unknown,
}

impl From<Said> for State {
    fn from(said: Said) -> Self {
        match said {
            Said::Delivered => Self::Delivered,
            Said::Accepted => Self::Accepted,
            Said::Progress => Self::Progress,
            Said::Completed => Self::Completed,
            Said::Failed => Self::Failed,
        }
    }
}

/// What a batch changes about one delivery.
#[derive(Debug, Clone)]
struct Change {
    state: State,
    moved: bool,
    accepted: bool,
    progressed: bool,
    message: Option<String>,
    progress: Option<f32>,
    result: Option<String>,
}

impl Change {
    fn new(state: State) -> Self {
        Self {
            state,
            moved: false,
            accepted: false,
            progressed: false,
            message: None,
            progress: None,
            result: None,
        }
    }

    fn take(&mut self, answer: &Answer) -> Fate {
        let next = State::from(answer.said);
        if self.state.is_final() {
            return Fate::Late;
        }
        if !self.state.may_become(next) {
            return Fate::Repeated;
        }
        (self.state, self.moved) = (next, true);
        self.accepted |= next == State::Accepted;
        self.progressed |= next == State::Progress;
        for (kept, said) in [(&mut self.message, &answer.message), (&mut self.result, &answer.result)] {
            if said.is_some() {
                kept.clone_from(said);
            }
        }
        self.progress = answer.progress.or(self.progress);
        Fate::Applied(next)
    }
}

/// Applies answers in the order in which they came, and says what became of each. For a transaction.
///
/// # Errors
/// The database's.
pub async fn apply(client: &impl GenericClient, heard: &[Heard]) -> Result<Vec<Fate>, Error> {
    let commands: Vec<&str> = heard.iter().map(|heard| heard.answer.command_id.as_str()).collect();
    let devices: Vec<&str> = heard.iter().map(|heard| heard.device.as_str()).collect();
    let mut places: Vec<Option<i64>> = vec![None; heard.len()];
    let mut changes: BTreeMap<i64, Change> = BTreeMap::new();
    for row in client.query(FIND, &[&commands, &devices]).await? {
        let (number, seq): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let state: State = row.try_get::<_, &str>(2)?.parse().unwrap_or(State::Failed);
        // Numbered from 1.
        if let Some(place) = usize::try_from(number - 1).ok().and_then(|index| places.get_mut(index)) {
            *place = Some(seq);
        }
        changes.entry(seq).or_insert_with(|| Change::new(state));
    }
    let fate = |(heard, place): (&Heard, Option<i64>)| match place.and_then(|seq| changes.get_mut(&seq)) {
        Some(change) => change.take(&heard.answer),
        None => Fate::Unknown,
    };
    let fates = heard.iter().zip(places).map(fate).collect();
    changes.retain(|_, change| change.moved);
    write(client, &changes).await?;
    Ok(fates)
}

async fn write(client: &impl GenericClient, changes: &BTreeMap<i64, Change>) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let seqs: Vec<i64> = changes.keys().copied().collect();
    let states: Vec<&str> = changes.values().map(|change| change.state.as_str()).collect();
    let flags = |flag: fn(&Change) -> bool| -> Vec<bool> { changes.values().map(flag).collect() };
    let messages: Vec<Option<&str>> = changes.values().map(|change| change.message.as_deref()).collect();
    let progress: Vec<Option<f32>> = changes.values().map(|change| change.progress).collect();
    let results: Vec<Option<&str>> = changes.values().map(|change| change.result.as_deref()).collect();
    client
        .execute(
            APPLY,
            &[
                &seqs,
                &states,
                &flags(|change| change.accepted),
                &flags(|change| change.progressed),
                &flags(|change| change.state.is_final()),
                &messages,
                &progress,
                &results,
            ],
        )
        .await?;
    Ok(())
}
