//! A signed token in its compact form (RFC 7515): its parts, its header, its signature.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keys::{Algorithm, Keys};
use super::members::Members;
use super::refusal::{Part, Refusal};

/// The kinds of token that say who somebody is; a logout token or a proof of the same issuer is none. Without `typ` the claims
/// decide.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// The payload of `token`, if one of `keys` signed it.
///
/// Of the header, `alg`, `kid`, `typ` and `crit` are looked at. What else it may bring, such as a key of its own (`jwk`, `x5c`)
/// or where to fetch one (`jku`, `x5u`), is never read: a token does not choose whom it is believed by.
pub(super) fn open(token: &str, keys: &Keys) -> Result<Vec<u8>, Refusal> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Parts)?;
    let (header, payload) = signed.split_once('.').ok_or(Refusal::Parts)?;
    if payload.contains('.') {
        return Err(Refusal::Parts);
    }
    let header: Members = serde_json::from_slice(&decode(Part::Header, header)?).map_err(|_| Refusal::Json(Part::Header))?;
    let algorithm = algorithm(&header)?;
    if header.get("crit").is_some() {
        return Err(Refusal::Critical);
    }
    if let Some(kind) = header.text("typ").map_err(Refusal::Header)? {
        let kind = kind.to_ascii_lowercase();
        if !TYPES.contains(&kind.strip_prefix("application/").unwrap_or(&kind)) {
            return Err(Refusal::Type);
        }
    }
    let kid = header.text("kid").map_err(Refusal::Header)?;
    if signature.is_empty() {
        return Err(Refusal::Unsigned);
    }
    let signature = decode(Part::Signature, signature)?;
    keys.verify(algorithm, kid, signed.as_bytes(), &signature)?;
    decode(Part::Payload, payload)
}

/// Which of the three the header names, to the letter. The rest are told apart for who reads the log: `none` and HS256 are
/// attacks, RS512 is a setting of the issuer.
fn algorithm(header: &Members) -> Result<Algorithm, Refusal> {
    let name = header.text("alg").map_err(Refusal::Header)?.unwrap_or_default();
    let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name);
    known.ok_or_else(|| match name.to_ascii_lowercase().as_str() {
        "none" => Refusal::Unsigned,
        "hs256" | "hs384" | "hs512" => Refusal::Symmetric,
        _ => Refusal::Algorithm,
    })
}

fn decode(part: Part, text: &str) -> Result<Vec<u8>, Refusal> {
    // Strict: no padding and no bits over, so that a part has one spelling.
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Encoding(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMS_OF_RFC_7515: &str = "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";

    /// A vector: the key, the token's three parts, and its payload.
    fn assert_opens(jwk: &str, token: &[&str], payload: &str) {
        let keys = Keys::parse(format!(r#"{{"keys":[{jwk}]}}"#).as_bytes()).expect("a sound key");
        let token = token.concat();
        assert_eq!(open(&token, &keys), Ok(payload.as_bytes().to_vec()));
        // The same signature under another payload.
        let (_, signature) = token.rsplit_once('.').expect("three parts");
        let (header, _) = token.split_once('.').expect("three parts");
        assert_eq!(open(&format!("{header}.e30.{signature}"), &keys), Err(Refusal::Signature));
    }

    #[test]
    fn the_vector_of_rfc_7515_a_2_opens() {
        assert_opens(
            concat!(
                r#"{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL"#,
                "-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdV",
                r#"MTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#
            ),
            &[
                "eyJhbGciOiJSUzI1NiJ9.",
                "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
                "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdi",
                "uB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2",
                "w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            ],
            CLAIMS_OF_RFC_7515,
        );
    }

    #[test]
    fn the_vector_of_rfc_7515_a_3_opens() {
        assert_opens(
            r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
            &[
                "eyJhbGciOiJFUzI1NiJ9.",
                "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ],
            CLAIMS_OF_RFC_7515,
        );
    }

    #[test]
    fn the_vector_of_rfc_8037_a_4_opens() {
        assert_opens(
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            &[
                "eyJhbGciOiJFZERTQSJ9.",
                "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.",
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ],
            "Example of Ed25519 signing",
        );
    }
}
