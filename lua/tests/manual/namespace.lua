vda = nvme_bus:create(0, "ds-max=4", "device=1234:n1")
