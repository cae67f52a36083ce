# For L4Re's build system, when this project lies in its folder of packages (doc/l4re.md). Elsewhere: cargo.
PKGDIR = .
# Where a link to the project lies in that folder, the way up leads elsewhere; the build folder knows L4Re's source tree.
L4DIR ?= $(if $(wildcard $(PKGDIR)/../../mk/subdir.mk),$(abspath $(PKGDIR)/../..),$(firstword $(O) $(OBJ_BASE) $(BUILDDIR))/source)
export L4DIR

TARGET = homes/l4re/program homes/l4re/take-back

include $(L4DIR)/mk/subdir.mk
