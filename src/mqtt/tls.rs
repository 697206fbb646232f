//! TLS for the connection to the broker, from the files named in the configuration.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::TlsConfig;

/// Why TLS did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read, or is not PEM.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What was wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate file holds none.
    #[error("{0}: holds no certificate; PEM with BEGIN CERTIFICATE is expected")]
    Empty(String),
    /// The certificates or the key cannot be used.
    #[error("TLS configuration: {0}")]
    Config(#[from] rustls::Error),
    /// The host is neither a name nor an address.
    #[error("{0:?} is no host name that a certificate could carry")]
    Host(String),
    /// The handshake failed.
    #[error("TLS handshake: {0}")]
    Handshake(#[from] std::io::Error),
}

pub(super) async fn handshake(config: &TlsConfig, host: &str, tcp: TcpStream) -> Result<TlsStream<TcpStream>, TlsError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
    let connector = TlsConnector::from(Arc::new(client_config(config)?));
    Ok(connector.connect(name, tcp).await?)
}

/// Read at each connection, so that renewed files count from the next one on.
fn client_config(config: &TlsConfig) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&config.ca_cert)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    with_client(builder, config)
}

/// With our certificate, where we have one.
pub(super) fn with_client(builder: ConfigBuilder<ClientConfig, WantsClientCert>, config: &TlsConfig) -> Result<ClientConfig, TlsError> {
    Ok(match &config.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File {
                path: key.display().to_string(),
                source,
            })?;
            builder.with_client_auth_cert(certificates(certificate)?, key)?
        }
    })
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file_error = |source| TlsError::File {
        path: path.display().to_string(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(file_error)?
        .collect::<Result<_, _>>()
        .map_err(file_error)?;
    if certificates.is_empty() {
        Err(TlsError::Empty(path.display().to_string()))
    } else {
        Ok(certificates)
    }
}
