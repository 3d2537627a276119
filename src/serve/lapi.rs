//! The Local API of CrowdSec, as bouncers need it.
