/*
 * What a host offers to run guests, item by item: found or not, and the cure.
 */
#ifndef CONTROL_DOCTOR_DOCTOR_H
#define CONTROL_DOCTOR_DOCTOR_H

#include "control/doctor/check.h"

#include <stdbool.h>
#include <stdio.h>

/* All checks of this host, in the order of the report. */
void doctor_examine(struct doctor *doctor);

/* Can guests run? */
bool doctor_verdict(const struct doctor *doctor);

/* A table with lines of at most `columns` characters (0: 80), or one JSON object. */
void doctor_print(const struct doctor *doctor, FILE *out, unsigned columns);
void doctor_print_json(const struct doctor *doctor, FILE *out);

#endif
