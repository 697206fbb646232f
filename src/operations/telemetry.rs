//! Deleting what a device has sent: a part at a time, each a transaction with its entry in the audit.

use tokio_postgres::{Error, GenericClient};

use crate::devices::telemetry::delete::{self, Deleted};
use crate::devices::telemetry::span::Span;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::protocol::id::DeviceIdRef;

/// Deletes a device's telemetry and events of a span. What is deleted stays so when a later part fails; the audit says how far
/// it came.
///
/// # Errors
/// The database's.
pub async fn delete(
    client: &mut impl GenericClient,
    actor: &Actor,
    (device, device_id): (DeviceIdRef<'_>, i32),
    span: Span,
) -> Result<Deleted, Error> {
    let (mut deleted, mut rest) = (Deleted::default(), Some(span));
    while let Some(span) = rest.take() {
        let transaction = client.transaction().await?;
        let (part, left) = delete::part(&transaction, device_id, span).await?;
        let end = left.map_or(span.to(), Span::from);
        let act = Act::new(actor, Action::TelemetryDelete, device.as_str(), Outcome::Done)
            .with("from", span.from().to_string())
            .with("to", end.to_string())
            .with("telemetry", part.telemetry)
            .with("events", part.events);
        audit::record(&transaction, &act).await?;
        transaction.commit().await?;
        deleted += part;
        rest = left;
    }
    Ok(deleted)
}
