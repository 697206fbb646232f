//! What the handlers leave to be said once for all operations passes through here: names, refusals, how parameters are left out.

use serde_json::Value;
use utoipa::ToSchema as _;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{Content, ContentBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder, Schema, Type};

use super::super::error::Document;
use super::super::routes::BASE;

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

/// The description with all of it.
pub(in super::super) fn finish(mut document: OpenApi) -> OpenApi {
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
                for parameter in operation.parameters.iter_mut().flatten() {
                    if let RefOr::T(parameter) = parameter {
                        refine(parameter, method == "get");
                    }
                }
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
    let responses = &mut operation.responses.responses;
    for (status, description) in REFUSALS {
        let response = ResponseBuilder::new().description(*description).build();
        responses.entry((*status).to_owned()).or_insert(RefOr::T(response));
    }
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && !status.starts_with('2')
            && response.content.is_empty()
        {
            response.content.insert("application/problem+json".to_owned(), RefOr::T(problem()));
        }
    }
}

fn problem() -> Content {
    let schema = RefOr::Ref(Ref::from_schema_name(Document::name()));
    ContentBuilder::new().schema(Some(schema)).build()
}

/// A parameter is there or not, and never null; one of a query that only reads may be there without a value, which is the same as not.
fn refine(parameter: &mut Parameter, reads: bool) {
    if let Some(schema) = parameter.schema.take() {
        parameter.schema = Some(without_null(schema));
    }
    if reads && parameter.parameter_in == ParameterIn::Query && parameter.required != Required::True {
        // The builder of parameters does not know this member; extensions stand where it would.
        let extensions = parameter.extensions.get_or_insert_default();
        extensions.insert("allowEmptyValue".to_owned(), Value::Bool(true));
    }
}

fn without_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|of| *of != Type::Null);
                if let [one] = types.as_slice() {
                    object.schema_type = SchemaType::Type(one.clone());
                }
            }
            RefOr::T(Schema::Object(object))
        }
        RefOr::T(Schema::OneOf(mut choice)) => {
            choice.items.retain(|item| !is_null(item));
            match choice.items.pop() {
                Some(only) if choice.items.is_empty() => only,
                Some(last) => {
                    choice.items.push(last);
                    RefOr::T(Schema::OneOf(choice))
                }
                None => RefOr::T(Schema::OneOf(choice)),
            }
        }
        other => other,
    }
}

fn is_null(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null))
}
