/* SPDX-License-Identifier: Apache-2.0 */
#include "dinov/base.h"
