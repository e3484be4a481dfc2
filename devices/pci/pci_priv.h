/* What the files of this folder share. */
#ifndef DEVICES_PCI_PCI_PRIV_H
#define DEVICES_PCI_PCI_PRIV_H

#include "devices/pci/pci.h"

#include <stdbool.h>

/* Address in the registers of BAR `index`, mapped or not. */
gpa_t pci_dev_bar_gpa(const struct pci_dev *dev, unsigned index);
void pci_dev_set_bar_gpa(struct pci_dev *dev, unsigned index, gpa_t gpa);

/* Takes a function off the host: nothing reaches it any more. */
void pci_host_remove(struct pci_host *host, struct pci_dev *dev);

/* Do the MSI-X structures hold any of [offset, offset + size) of `bar`? All of it? */
bool pci_msix_touches(const struct pci_msix *msix, unsigned bar, uint64_t offset, unsigned size);
bool pci_msix_holds(const struct pci_msix *msix, unsigned bar, uint64_t offset, unsigned size);

/* `offset` is from the start of the BAR; pci_msix_holds() was true. */
uint64_t pci_msix_read(struct pci_msix *msix, uint64_t offset, unsigned size);
void pci_msix_write(struct pci_msix *msix, uint64_t offset, unsigned size, uint64_t value);

/* The guest wrote [offset, offset + size) of the configuration space. */
void pci_msix_config_written(struct pci_dev *dev, unsigned offset, unsigned size);

/* Is MSI-X on? Under the host's lock. */
bool pci_msix_on(const struct pci_dev *dev);

/* Follows a change of the command register or of MSI-X; under the host's lock. */
void pci_intx_update(struct pci_dev *dev);

void pci_msix_free(struct pci_msix *msix);

#endif
