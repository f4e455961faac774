"""Object stores: folders and S3."""

from service.adapters.objects.connections import ConfiguredStores, store_for_url
from service.adapters.objects.folder import FolderStore
from service.adapters.objects.s3 import S3Store

__all__ = ["ConfiguredStores", "FolderStore", "S3Store", "store_for_url"]
