//! The one call for which we go below aws-lc-rs: a PKCS #1 v1.5 signature over a SHA-1 digest.
//!
//! aws-lc-rs verifies such signatures and rightly refuses to make them, but the old wire asks for
//! one in every Member message. This is the only unsafe code of the project.
#![allow(unsafe_code, reason = "aws-lc-sys is C; see each block's SAFETY")]

use std::ffi::c_uint;

use aws_lc_sys::{NID_sha1, RSA, RSA_free, RSA_private_key_from_bytes, RSA_sign, RSA_size};

/// Frees the key when it goes out of scope, on every path.
struct Key(*mut RSA);

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: the pointer came from RSA_private_key_from_bytes, is not null, and is freed once.
        // AWS-LC wipes a private key's numbers as it frees them.
        unsafe { RSA_free(self.0) }
    }
}

/// Signs `digest`, a SHA-1 of 20 bytes, with the key in `pkcs1` (DER RSAPrivateKey).
///
/// Returns a signature as long as the key's modulus, or `None` if AWS-LC refuses key or digest.
pub(crate) fn sign(pkcs1: &[u8], digest: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: the pointer and the length describe one live slice, which the call only reads.
    let key = unsafe { RSA_private_key_from_bytes(pkcs1.as_ptr(), pkcs1.len()) };
    if key.is_null() {
        return None;
    }
    let key = Key(key);
    // SAFETY: the key is valid until it is dropped at the end of this function.
    let size = unsafe { RSA_size(key.0) } as usize;
    let mut signature = vec![0; size];
    let mut length: c_uint = 0;
    // SAFETY: `digest` is read for its length; `signature` has RSA_size bytes, as RSA_sign
    // demands; `length` and the key are valid for the call.
    let done = unsafe {
        RSA_sign(
            NID_sha1,
            digest.as_ptr(),
            digest.len() as _,
            signature.as_mut_ptr(),
            &raw mut length,
            key.0,
        )
    };
    signature.truncate(length as usize);
    (done == 1).then_some(signature)
}
