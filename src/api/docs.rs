//! The API's description (OpenAPI 3.1), made from the handlers themselves, and a page to try it on.

use axum::Router;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi as _, PartialSchema as _, ToSchema as _};
use utoipa_swagger_ui::SwaggerUi;

use super::error::Document;

mod finish;

pub(super) use finish::finish;

/// Where the document is.
const PATH: &str = "/api/v1/openapi.json";

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

/// The document, and the page.
pub(super) fn router<S: Clone + Send + Sync + 'static>(document: OpenApi) -> Router<S> {
    Router::from(SwaggerUi::new("/docs").url(PATH, document))
}
