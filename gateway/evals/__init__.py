"""Whether answers are right: suites of cases, and how they are asked and scored."""
