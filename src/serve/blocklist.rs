//! Lists of blocked addresses for those who fetch a file.
