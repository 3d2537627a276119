//! The description of everything that can be asked for, as OpenAPI 3.1.
