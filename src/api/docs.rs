//! The API's description (OpenAPI 3.1), made from the handlers themselves, and a page to try it on.

use axum::Router;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi as _, PartialSchema as _, ToSchema as _};
use utoipa_swagger_ui::SwaggerUi;

use super::error::Document;
use super::routes::BASE;

/// Where the document is.
const PATH: &str = "/api/v1/openapi.json";
/// What any operation may answer when it refuses, and why.
const REFUSALS: &[(&str, &str)] = &[
    ("400", "The request makes no sense; the problem says what would be right."),
    ("401", "No credential, or one that is not taken."),
    ("403", "The role is not enough, or the broker refused."),
    ("404", "There is no such thing."),
    (
        "429",
        "Too many requests, or too many wrong credentials; Retry-After says when to come again.",
    ),
    ("503", "The database or the broker is away; Retry-After says when to come again."),
    ("default", "Any other refusal."),
];

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "IoTFlow",
        description = "Devices, commands, fleets and telemetry. Every answer of status 2xx carries `status: success`; every refusal is a problem document (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/", description = "This service")),
    modifiers(&Schemes),
    security(("bearer" = [])),
    tags(
        (name = "mqtt", description = "The broker: its state, its topics, publishing and tapping"),
        (name = "devices", description = "Devices, their credentials, presence and configuration"),
        (name = "groups", description = "Groups of devices, by list or by rule"),
        (name = "commands", description = "Commands to devices and fleets, and what became of them"),
        (name = "telemetry", description = "Readings: in over HTTP, out by range, newest, or aggregated"),
        (name = "discovery", description = "Devices that ask for credentials"),
        (name = "operations", description = "Dead letters, figures, the audit"),
    ),
)]
struct Description;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token (`iotflow token create`), or a JWT of the configured issuer"))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let key = ApiKeyValue::with_description("X-API-Key", "A device's own key, for its own telemetry");
        components.add_security_scheme("device_key", SecurityScheme::ApiKey(ApiKey::Header(key)));
        components.schemas.insert(Document::name().into_owned(), Document::schema());
    }
}

/// The frame, which the router fills with its paths.
pub(super) fn document() -> OpenApi {
    Description::openapi()
}

/// Gives every operation a name of its own, by method and path, and adds what any of them may refuse.
pub(super) fn finish(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                operation.operation_id = Some(name(method, path));
                add_refusals(operation);
            }
        }
    }
    document
}

/// `get_devices_device_id`: what generators of clients call a function.
fn name(method: &str, path: &str) -> String {
    let levels = path.trim_start_matches(BASE).split('/').filter(|level| !level.is_empty());
    let words = std::iter::once(method).chain(levels.map(|level| level.trim_matches(['{', '}'])));
    words.collect::<Vec<_>>().join("_").replace('-', "_")
}

fn add_refusals(operation: &mut Operation) {
    for (status, description) in REFUSALS {
        let content = ContentBuilder::new()
            .schema(Some(RefOr::Ref(Ref::from_schema_name(Document::name()))))
            .build();
        let response = ResponseBuilder::new()
            .description(*description)
            .content("application/problem+json", content)
            .build();
        operation
            .responses
            .responses
            .entry((*status).to_owned())
            .or_insert(RefOr::T(response));
    }
}

/// The document, and the page.
pub(super) fn router<S: Clone + Send + Sync + 'static>(document: OpenApi) -> Router<S> {
    Router::from(SwaggerUi::new("/docs").url(PATH, document))
}
