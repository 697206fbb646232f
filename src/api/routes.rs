//! The router, on one page: what there is, and what each request goes through.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use super::state::Desk;
use super::{
    admin, audit, bulk, commands, configs, credentials, dead_letters, devices, discovery, docs, fleets, groups, health, layers, messages,
    metrics, mqtt, telemetry, topics,
};

/// Below which everything stands that asks for a credential.
pub(super) const BASE: &str = "/api/v1";

/// Everything behind the door.
pub(super) fn router(desk: Desk) -> Router {
    let (api, document) = OpenApiRouter::with_openapi(docs::document()).nest(BASE, api()).split_for_parts();
    let machines = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/healthz", get(health::ready))
        .route("/metrics/qos", get(metrics::qos))
        .route("/metrics", get(metrics::rest));
    machines
        .merge(api)
        .merge(docs::router(docs::finish(document)))
        .fallback(layers::nowhere)
        .method_not_allowed_fallback(layers::no_such_method)
        .layer(DefaultBodyLimit::max(desk.config.max_body_bytes))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn_with_state(desk.clone(), layers::around))
        .with_state(desk)
}

/// What stands below [`BASE`].
fn api() -> OpenApiRouter<Desk> {
    OpenApiRouter::new()
        // The broker.
        .routes(routes!(mqtt::status))
        .routes(routes!(mqtt::qos))
        .routes(routes!(mqtt::monitoring))
        .routes(routes!(messages::publish))
        .routes(routes!(messages::subscribe))
        .routes(routes!(messages::events))
        .routes(routes!(messages::unsubscribe))
        .routes(routes!(discovery::list, discovery::expect))
        .routes(routes!(discovery::approve))
        .routes(routes!(discovery::reject))
        .routes(routes!(discovery::forget))
        .routes(routes!(topics::structure))
        .routes(routes!(topics::validate))
        .routes(routes!(topics::of_device))
        // Devices.
        .routes(routes!(devices::register, devices::list))
        .routes(routes!(bulk::import).layer(DefaultBodyLimit::max(bulk::MAX_BODY_BYTES)))
        .routes(routes!(bulk::export))
        .routes(routes!(devices::get, devices::update, devices::delete))
        .routes(routes!(devices::enable))
        .routes(routes!(devices::disable))
        .routes(routes!(devices::presence))
        .routes(routes!(credentials::rotate))
        .routes(routes!(credentials::revoke))
        .routes(routes!(credentials::of_mqtt))
        .routes(routes!(configs::get, configs::set, configs::delete))
        // Groups.
        .routes(routes!(groups::create, groups::list))
        .routes(routes!(groups::get, groups::update, groups::delete))
        .routes(routes!(groups::members, groups::add, groups::remove))
        // Commands.
        .routes(routes!(commands::send))
        .routes(routes!(fleets::send))
        .routes(routes!(commands::list))
        .routes(routes!(commands::show))
        .routes(routes!(commands::cancel))
        .routes(routes!(commands::of_device))
        // What devices send.
        .routes(routes!(telemetry::submit::submit, telemetry::range, telemetry::delete))
        .routes(routes!(telemetry::of_events))
        .routes(routes!(telemetry::of_latest))
        .routes(routes!(telemetry::aggregated))
        .routes(routes!(telemetry::export::export))
        .routes(routes!(telemetry::latest_of_group))
        // The installation.
        .routes(routes!(dead_letters::list, dead_letters::purge))
        .routes(routes!(dead_letters::get, dead_letters::remove))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(admin::stats))
        .routes(routes!(audit::list))
}

/// The description of the API, for whoever wants it without a service.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    let (_, document) = OpenApiRouter::with_openapi(docs::document()).nest(BASE, api()).split_for_parts();
    docs::finish(document)
}
