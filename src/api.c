#include "generate/generate.h"
#include "load/load.h"
