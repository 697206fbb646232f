//! A client of the API: one connection a request, JSON in and out.

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Whoever calls, with a token or without.
#[derive(Debug, Clone)]
pub struct Api {
    pub address: String,
    pub token: Option<String>,
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Api {
    pub fn new(address: &str, token: Option<&str>) -> Self {
        Self {
            address: address.to_owned(),
            token: token.map(str::to_owned),
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.call("POST", path, Some(body)).await
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        self.call_with(method, path, &[], body).await
    }

    /// The same, with further headers.
    pub async fn call_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Reply {
        let mut headers = headers.to_vec();
        if body.is_some() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push((CONTENT_TYPE.as_str(), "application/json"));
        }
        self.raw(method, path, &headers, body.map(|body| body.to_string()).unwrap_or_default())
            .await
    }

    /// The same, with any body.
    pub async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let response = self.open(method, path, headers, body).await;
        let (head, body) = response.into_parts();
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.collect().await.expect("the answer comes whole").to_bytes(),
        }
    }

    /// The same, with the answer's body still to come.
    pub async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Incoming> {
        let stream = TcpStream::connect(&self.address).await.expect("the service listens");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("it speaks HTTP");
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder().method(method).uri(path).header(HOST, "test");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a sound request");
        sender.send_request(request).await.expect("it answers")
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {} {:?}", self.status, self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// The answer of a request that must have succeeded.
    pub fn ok(&self) -> Value {
        let json = self.json();
        assert!((200..300).contains(&self.status), "{} {json}", self.status);
        assert_eq!(json["status"], "success", "{json}");
        json
    }

    /// The problem of a request that must have been refused so.
    pub fn problem(&self, status: u16) -> Value {
        let json = self.json();
        assert_eq!(self.status, status, "{json}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(json["status"], status);
        for member in ["type", "title", "detail", "instance", "error", "message", "request_id"] {
            assert!(json[member].is_string(), "{member} is missing in {json}");
        }
        json
    }
}
